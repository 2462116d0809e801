//! Editing the text of a Clusterfile, chasi's or sealer's: hosts are added and taken
//! out, or the image is named anew, and every other byte stays as it is.
//!
//! An edit is lines that come and lines that go. What came of it is read again and
//! compared with what was meant, so that a text that is written in a way that is
//! not understood here is refused and never damaged.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use super::tree::{self, Node, Value};
use super::{Clusterfile, Problems};
use crate::error::{Error, Kind, Result};
use crate::spec::certificate::Fingerprint;
use crate::spec::cluster::{Host, Roles};
use crate::spec::name::{HostName, ImageName, UserName};
use crate::spec::network::Address;

/// A host that is to be added.
#[derive(Clone, Debug)]
pub struct NewHost {
    /// Its name. Sealer's kind of Clusterfile has none: there it is what chasi makes
    /// of the address, or nothing.
    pub name: Option<HostName>,
    /// Where SSH reaches it.
    pub address: Address,
    /// What it does.
    pub roles: Roles,
    /// As whom to log in, when it is not as to the others.
    pub user: Option<UserName>,
    /// The port of its SSH server, when it is not that of the others.
    pub port: Option<u16>,
    /// A private key to log in with.
    pub identity_file: Option<String>,
    /// The fingerprint of its key.
    pub host_key: Option<Fingerprint>,
}

/// A Clusterfile whose list of hosts was edited.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The new text.
    pub text: String,
    /// What it asks for.
    pub clusterfile: Clusterfile,
}

/// Takes hosts out of the list and puts others at its end. `path` and `home` are as
/// for [`Clusterfile::parse`].
///
/// # Errors
/// [`Kind::Input`] when the new text does not make sense, or the list is written in
/// a way that cannot be edited; [`Kind::NotFound`] when a host is not in it.
pub fn edit(
    path: &str,
    text: &str,
    home: Option<&Path>,
    gone: &[&str],
    new: &[NewHost],
) -> Result<Edited> {
    let before = Clusterfile::parse(path, text, home)?;
    let mut leaving = Vec::new();
    for name in gone {
        match before.cluster.hosts.get(name) {
            Some(host) => leaving.push(host),
            None => return Err(not_listed(path, name, &before)),
        }
    }
    let list = List::find(path, text).ok_or_else(|| by_hand(path, gone, new))?;
    let mut changes = list
        .without(&leaving)
        .ok_or_else(|| by_hand(path, gone, new))?;
    if !new.is_empty() {
        changes.extend(list.with(new));
    }
    let text = apply(text, changes);
    let clusterfile = Clusterfile::parse(path, &text, home)?;
    match is_meant(&before, &clusterfile, gone, new) && list.rest() == rest_of(path, &text, "hosts")
    {
        true => Ok(Edited { text, clusterfile }),
        false => Err(by_hand(path, gone, new)),
    }
}

/// Names another image. `path` and `home` are as for [`Clusterfile::parse`].
///
/// # Errors
/// [`Kind::Input`] when the new text does not make sense, or the image is written in
/// a way that cannot be edited.
pub fn set_image(path: &str, text: &str, home: Option<&Path>, image: &ImageName) -> Result<Edited> {
    let before = Clusterfile::parse(path, text, home)?;
    let by_hand = || {
        Error::new(
            Kind::Input,
            format!("the image in `{path}` is written in a way that cannot be edited"),
        )
        .hint(format!(
            "write `image: {image}` by hand, then `chasi upgrade -f {path}`"
        ))
    };
    let problems = Problems::new(path, text);
    let documents = tree::documents(&problems);
    let cluster = documents.iter().find(|node| is_cluster(node));
    let named = cluster.and_then(|node| node.get("spec")?.get("image"));
    let named = named.ok_or_else(by_hand)?;
    if text_of(named).as_deref() != Some(before.cluster.image.as_str()) {
        return Err(by_hand());
    }
    let after = apply(text, vec![(named.span.clone(), name_of(image))]);
    let clusterfile = Clusterfile::parse(path, &after, home).map_err(|_| by_hand())?;
    let same = rest_of(path, text, "image") == rest_of(path, &after, "image");
    match same && clusterfile.cluster.image == *image {
        true => Ok(Edited {
            text: after,
            clusterfile,
        }),
        false => Err(by_hand()),
    }
}

/// An image's name as a scalar. With a `/` in it, it can only be text.
fn name_of(image: &ImageName) -> String {
    match image.as_str().contains('/') {
        true => image.to_string(),
        false => scalar(image.as_str()),
    }
}

fn not_listed(path: &str, name: &str, file: &Clusterfile) -> Error {
    let known: Vec<&str> = file
        .cluster
        .hosts
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    Error::new(Kind::NotFound, format!("`{path}` has no host `{name}`"))
        .hint(format!("its hosts are {}", known.join(", ")))
}

fn by_hand(path: &str, gone: &[&str], new: &[NewHost]) -> Error {
    let mut what: Vec<String> = gone
        .iter()
        .map(|name| format!("take `{name}` out"))
        .collect();
    what.extend(new.iter().map(|host| format!("put {} in", host.address)));
    Error::new(
        Kind::Input,
        format!("the list of hosts in `{path}` is written in a way that cannot be edited"),
    )
    .hint(format!(
        "{} by hand, then `chasi run -f {path}`; or write the list as `Clusterfile.example` has it, a `-` for each host",
        what.join(", ")
    ))
}

/// Whether the hosts are those that were meant, in order, and as they were.
fn is_meant(before: &Clusterfile, after: &Clusterfile, gone: &[&str], new: &[NewHost]) -> bool {
    let kept = |host: &&Host| !gone.contains(&host.name.as_str());
    let mut expected = before.cluster.hosts.iter().filter(kept);
    let mut found = after.cluster.hosts.iter();
    let same = expected.by_ref().all(|host| {
        found.next().is_some_and(|other| {
            (&other.name, &other.address, other.roles) == (&host.name, &host.address, host.roles)
                && other.labels == host.labels
                && other.taints == host.taints
                && other.node_addresses == host.node_addresses
        })
    });
    let added = new.iter().all(|host| {
        found.next().is_some_and(|other| {
            host.name.as_ref().is_none_or(|name| *name == other.name)
                && other.address == host.address
                && other.roles == host.roles
        })
    });
    same && added && found.next().is_none()
}

/// Whose kind of list it is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Style {
    Chasi,
    Sealer,
}

/// The list of hosts, in a text.
struct List<'a> {
    text: &'a str,
    style: Style,
    items: Vec<Item>,
    rest: serde_json::Value,
}

/// An entry of the list, with whole lines.
struct Item {
    node: Node,
    /// From the line with its `-` to the end of its last line.
    lines: Range<usize>,
    /// The column of its `-`.
    dash: usize,
    /// The column of its keys.
    key: usize,
}

/// A part of the text, and what comes in its place.
type Change = (Range<usize>, String);

impl<'a> List<'a> {
    fn find(path: &str, text: &'a str) -> Option<Self> {
        let problems = Problems::new(path, text);
        let documents = tree::documents(&problems);
        let document = documents.iter().find(|node| is_cluster(node))?;
        let style = match document.get("apiVersion")?.as_text()? {
            "sealer.cloud/v2" => Style::Sealer,
            _ => Style::Chasi,
        };
        let entries = document.get("spec")?.entries();
        let (key, hosts) = entries.iter().find(|(key, _)| key.name == "hosts")?;
        let Value::List(nodes) = &hosts.value else {
            return None;
        };
        let items = nodes
            .iter()
            .map(|node| Item::find(text, key.span.start, node))
            .collect::<Option<Vec<_>>>()?;
        // Entries that share a line, or are in each other's, were not understood.
        let apart = items
            .windows(2)
            .all(|pair| pair[0].lines.end <= pair[1].lines.start);
        apart.then_some(List {
            text,
            style,
            items,
            rest: rest(&documents, "hosts"),
        })
    }

    /// Everything but the list.
    fn rest(&self) -> Option<serde_json::Value> {
        Some(self.rest.clone())
    }

    fn with(&self, new: &[NewHost]) -> Vec<Change> {
        let Some(last) = self.items.last() else {
            return Vec::new();
        };
        let newline = match self.text.contains("\r\n") {
            true => "\r\n",
            false => "\n",
        };
        let at = last.lines.end;
        let mut added = String::new();
        let ends_in_line = self.text[..at].ends_with('\n');
        if !ends_in_line {
            added.push_str(newline);
        }
        for host in new {
            for line in lines_of(host, self.style, last.dash, last.key) {
                added.push_str(&line);
                added.push_str(newline);
            }
        }
        if !ends_in_line {
            added.truncate(added.len() - newline.len());
        }
        vec![(at..at, added)]
    }

    /// `None` when an entry cannot be found.
    fn without(&self, leaving: &[&Host]) -> Option<Vec<Change>> {
        match self.style {
            Style::Chasi => leaving
                .iter()
                .map(|host| {
                    let item = self.items.iter().find(|item| {
                        let name = item.node.get("name").and_then(text_of);
                        name.as_deref() == Some(host.name.as_str())
                    })?;
                    Some((item.lines.clone(), String::new()))
                })
                .collect(),
            Style::Sealer => {
                let addresses: Vec<&Address> = leaving.iter().map(|host| &host.address).collect();
                let mut changes = Vec::new();
                for item in &self.items {
                    changes.extend(self.without_addresses(item, &addresses)?);
                }
                Some(changes)
            }
        }
    }

    /// Sealer's entries have several addresses, and ranges of them.
    fn without_addresses(&self, item: &Item, leaving: &[&Address]) -> Option<Vec<Change>> {
        let Value::List(ips) = &item.node.get("ips")?.value else {
            return None;
        };
        let mut left = Vec::new();
        for ip in ips {
            left.push((ip, remaining(&text_of(ip)?, leaving)));
        }
        if left
            .iter()
            .all(|(_, pieces)| pieces.as_ref().is_some_and(Vec::is_empty))
        {
            return Some(vec![(item.lines.clone(), String::new())]);
        }
        let changed = left
            .into_iter()
            .filter_map(|(ip, pieces)| Some((ip, pieces?)));
        changed
            .map(|(ip, pieces)| self.replace(ip, &pieces))
            .collect()
    }

    /// One scalar of a list becomes several, or none.
    fn replace(&self, scalar: &Node, pieces: &[String]) -> Option<Change> {
        let text = self.text;
        let start = line_start(text, scalar.span.start);
        let prefix = &text[start..scalar.span.start];
        let is_block = prefix.trim() == "-";
        if !pieces.is_empty() {
            let between = match is_block {
                true => format!("\n{prefix}"),
                false => ", ".to_owned(),
            };
            return Some((scalar.span.clone(), pieces.join(&between)));
        }
        if is_block {
            return Some((start..line_end(text, scalar.span.end), String::new()));
        }
        let after = &text[scalar.span.end..];
        let trimmed = after.trim_start();
        if let Some(rest) = trimmed.strip_prefix(',') {
            let rest = rest.trim_start_matches(' ');
            return Some((scalar.span.start..text.len() - rest.len(), String::new()));
        }
        let before = text[..scalar.span.start].trim_end().strip_suffix(',')?;
        Some((before.len()..scalar.span.end, String::new()))
    }
}

fn is_cluster(document: &Node) -> bool {
    let kind = document.get("kind").and_then(Node::as_text);
    kind == Some("Cluster") && document.get("spec").is_some()
}

/// What a text says but for a field of the cluster's `spec`.
fn rest_of(path: &str, text: &str, field: &str) -> Option<serde_json::Value> {
    let problems = Problems::new(path, text);
    let documents = tree::documents(&problems);
    problems.is_empty().then(|| rest(&documents, field))
}

/// The documents without a field of the cluster's `spec`.
fn rest(documents: &[Node], field: &str) -> serde_json::Value {
    let mut all: Vec<serde_json::Value> = documents.iter().map(Node::to_json).collect();
    for (json, document) in all.iter_mut().zip(documents) {
        if is_cluster(document)
            && let Some(spec) = json["spec"].as_object_mut()
        {
            spec.remove(field);
        }
    }
    all.into()
}

impl Item {
    /// The lines of an entry; none when it is not written with a `-` of its own.
    fn find(text: &str, list: usize, node: &Node) -> Option<Self> {
        let first = line_start(text, node.span.start);
        let mut start = first;
        loop {
            let line = &text[start..line_end(text, start)];
            let content = line.trim_start();
            if content.starts_with("- ") || content.trim_end() == "-" {
                break;
            }
            let passed = start == first || content.trim().is_empty() || content.starts_with('#');
            if !passed || start <= list {
                return None;
            }
            start = line_start(text, start - 1);
        }
        let dash = indent(&text[start..]);
        let mut at = line_end(text, start);
        let mut end = at;
        while at < text.len() {
            let next = line_end(text, at);
            let line = &text[at..next];
            let content = line.trim();
            let is_comment = content.starts_with('#');
            if !content.is_empty() && !is_comment {
                if indent(line) <= dash {
                    break;
                }
                end = next;
            }
            at = next;
        }
        let key = match start == first {
            true => node.span.start - start,
            false => dash + 2,
        };
        Some(Item {
            node: node.clone(),
            lines: start..end,
            dash,
            key: key.max(dash + 2),
        })
    }
}

/// How many spaces a line begins with.
fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Where the line of a place begins.
fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |before| before + 1)
}

/// Where the line of a place ends, behind its newline.
fn line_end(text: &str, at: usize) -> usize {
    text[at..]
        .find('\n')
        .map_or(text.len(), |next| at + next + 1)
}

/// A scalar as text: what looks like a number stays as it was written.
fn text_of(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(written, _) => Some(written.clone()),
        _ => None,
    }
}

fn lines_of(host: &NewHost, style: Style, dash: usize, key: usize) -> Vec<String> {
    let first = format!("{}-{}", " ".repeat(dash), " ".repeat(key - dash - 1));
    let other = " ".repeat(key);
    let address = scalar(&host.address.to_string());
    let mut fields = Vec::new();
    match style {
        Style::Chasi => {
            let name = host.name.as_ref().map(ToString::to_string);
            let name = name.unwrap_or_else(|| host.address.to_string());
            fields.push(format!("name: {}", scalar(&name)));
            fields.push(format!("address: {address}"));
            let roles = match host.roles {
                Roles::ControlPlane => "control-plane",
                Roles::Worker => "worker",
                Roles::ControlPlaneAndWorker => "control-plane, worker",
            };
            fields.push(format!("roles: [{roles}]"));
        }
        Style::Sealer => {
            fields.push(format!("ips: [{address}]"));
            let roles = match host.roles {
                Roles::ControlPlane => "master",
                Roles::Worker => "node",
                Roles::ControlPlaneAndWorker => "master, node",
            };
            fields.push(format!("roles: [{roles}]"));
        }
    }
    let mut ssh = Vec::new();
    if let Some(user) = &host.user {
        ssh.push(format!("  user: {}", scalar(user.as_ref())));
    }
    if let Some(port) = host.port {
        ssh.push(match style {
            Style::Chasi => format!("  port: {port}"),
            Style::Sealer => format!("  port: \"{port}\""),
        });
    }
    if let Some(file) = &host.identity_file {
        ssh.push(match style {
            Style::Chasi => format!("  identityFiles: [{}]", quoted(file)),
            Style::Sealer => format!("  pk: {}", quoted(file)),
        });
    }
    if let Some(key) = host.host_key.as_ref().filter(|_| style == Style::Chasi) {
        ssh.push(format!("  hostKey: {}", quoted(&key.to_string())));
    }
    if !ssh.is_empty() {
        fields.push("ssh:".to_owned());
        fields.extend(ssh);
    }
    fields
        .iter()
        .enumerate()
        .map(|(index, field)| match index {
            0 => format!("{first}{field}"),
            _ => format!("{other}{field}"),
        })
        .collect()
}

/// A plain scalar where that can only be text, and a quoted one otherwise.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "y"];
    let plain = text.len() > 1
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
        && !WORDS.contains(&text.to_lowercase().as_str());
    let is_address = text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4());
    match plain && (is_address || text.starts_with(|c: char| c.is_ascii_alphabetic())) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// A double-quoted scalar: JSON's strings are a part of those.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What is left of an address or a range; `None` when nothing goes.
fn remaining(text: &str, leaving: &[&Address]) -> Option<Vec<String>> {
    let trimmed = text.trim();
    let ends = trimmed
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)) = ends else {
        let goes = trimmed
            .parse::<Address>()
            .is_ok_and(|address| leaving.contains(&&address));
        return goes.then(Vec::new);
    };
    let (first, last): (IpAddr, IpAddr) = (first, last);
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let address = |number: u128| match first {
        IpAddr::V4(_) => u32::try_from(number).ok().map(|ip| IpAddr::V4(ip.into())),
        IpAddr::V6(_) => Some(IpAddr::V6(number.into())),
    };
    let mut goes: Vec<u128> = leaving
        .iter()
        .filter_map(|address| match address {
            Address::Ip(ip) if ip.is_ipv4() == first.is_ipv4() => Some(number(*ip)),
            _ => None,
        })
        .filter(|ip| (number(first)..=number(last)).contains(ip))
        .collect();
    if goes.is_empty() {
        return None;
    }
    goes.sort_unstable();
    let mut pieces = Vec::new();
    let mut piece = |from: u128, to: u128| {
        if let (true, Some(from_ip), Some(to_ip)) = (from <= to, address(from), address(to)) {
            pieces.push(match from == to {
                true => from_ip.to_string(),
                false => format!("{from_ip}-{to_ip}"),
            });
        }
    };
    let mut from = number(first);
    for ip in goes {
        if ip > from {
            piece(from, ip - 1);
        }
        match ip.checked_add(1) {
            Some(next) => from = next,
            None => return Some(pieces),
        }
    }
    piece(from, number(last));
    Some(pieces)
}

fn apply(text: &str, mut changes: Vec<Change>) -> String {
    changes.sort_by_key(|(range, _)| (range.start, range.end));
    let mut edited = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for (range, new) in changes {
        edited.push_str(&text[at..range.start.max(at)]);
        edited.push_str(&new);
        at = range.end.max(at);
    }
    edited.push_str(&text[at..]);
    edited
}

#[cfg(test)]
mod tests;
