//! One run of a plugin's executable: verified, told what it needs, bounded, and its
//! answer read.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::secret::{self, Secrets};
use super::{Hook, Verb, record};
use crate::command::{Confined, Ended, Said};
use crate::digest::Hashing;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::file;
use crate::host::Root;
use crate::host::facts::Brief;
use crate::host::generation::{self, Node};
use crate::spec::plugin::{DIRECTORY, EXECUTABLE, LIMIT, MANIFEST, Manifest};

/// The version of what is said between chasi and plugins.
const VERSION: u32 = 1;
/// The most that a plugin's answer may be, and what is kept of its errors, in bytes.
const ANSWER: usize = 64 << 10;
/// The longest line for people, in bytes, and how many notes there may be.
const LINE: usize = 1000;
const NOTES: usize = 20;

/// Where a plugin's programs are found, below the host's root.
const PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// What a plugin answers.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// Whether it changed something; of `check`, whether there is something to do.
    pub changed: bool,
    /// What, or why not, in a line.
    #[serde(default)]
    pub message: String,
    /// What a person should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Runs a plugin out of a generation.
pub(super) fn run(
    root: &Root,
    number: u64,
    (hook, secrets): (&Hook, &Secrets),
    verb: Verb,
    ctx: &Context,
) -> Result<Reply> {
    let program = verify(root, number, hook)?;
    let own = record::state(root, &hook.plugin.name);
    if verb != Verb::Check {
        root.allow("run", &program)?;
        file::create_directories(&own)?;
    }
    let input = json!({
        "version": VERSION,
        "phase": hook.phase,
        "verb": verb,
        "host": hook.host,
        "role": hook.host.role,
        "settings": hook.settings,
        "secrets": secrets,
        "facts": Brief::gather(root),
        "cluster": hook.cluster,
        "state": own,
    });
    let command = Confined {
        directory: program.parent().map(PathBuf::from).unwrap_or_default(),
        environment: environment(root, hook, verb, &own),
        input: serde_json::to_vec(&input).or_err(
            Kind::Failed,
            || "cannot write as JSON what a plugin is told",
        )?,
        patience: Duration::from_secs(hook.plugin.timeout_seconds.into()),
        kept: ANSWER,
        program,
    };
    let said = command.run()?;
    ctx.emit(Event::Detail {
        host: None,
        text: secret::hide(&log(hook, verb, &said), secrets),
    });
    let hide = |text: String| secret::hide(&text, secrets);
    match judge(&said, hook.plugin.timeout_seconds) {
        Ok(reply) => Ok(Reply {
            changed: reply.changed,
            message: hide(reply.message),
            notes: reply.notes.into_iter().map(hide).collect(),
        }),
        Err(why) => {
            let (message, said) = (hide(why.message), hide(why.said));
            Err(failure(hook, verb, Why { message, said }))
        }
    }
}

/// Makes sure that a plugin's files are what the generation says, and that it is the
/// plugin that is meant. Returns its executable.
pub(super) fn verify(root: &Root, number: u64, hook: &Hook) -> Result<PathBuf> {
    let name = &hook.plugin.name;
    let directory = format!("{DIRECTORY}{name}/");
    let manifest = generation::load(root, number)?;
    let tree = generation::tree(root, number);
    let mut program = None;
    for (path, node) in &manifest.tree {
        let (Some(rest), Node::File(expected)) = (path.as_str().strip_prefix(&directory), node)
        else {
            continue;
        };
        let place = tree.join(path);
        let cannot = || format!("cannot read `{}`", place.display());
        let mut content = Hashing::new(fs::File::open(&place).or_err(Kind::System, cannot)?);
        io::copy(&mut content, &mut io::sink()).or_err(Kind::System, cannot)?;
        if content.finish().1 != expected.content {
            return Err(Error::new(
                Kind::Integrity,
                format!("`{}` is not what the image brought", place.display()),
            )
            .hint("someone or something changed it; the plugin was not run"));
        }
        if rest == EXECUTABLE {
            program = Some((place, expected.mode & 0o100 != 0));
        } else if rest == MANIFEST && expected.size <= LIMIT {
            let text = fs::read_to_string(&place).or_err(Kind::System, cannot)?;
            if Manifest::parse(path.as_str(), &text)? != hook.plugin {
                return Err(Error::new(
                    Kind::Integrity,
                    format!("the image brings two plugins `{name}`, and one is over the other"),
                )
                .hint("take one of them out of the image, or rename it"));
            }
        }
    }
    match program {
        Some((program, true)) => Ok(program),
        Some((program, false)) => Err(Error::new(
            Kind::Input,
            format!("`{}` is not executable", program.display()),
        )
        .hint("`chmod +x` it, and build the image again")),
        None => Err(Error::new(
            Kind::NotFound,
            format!("generation {number} has no plugin `{name}`"),
        )),
    }
}

/// All that a plugin has in its environment; `plugins/README.md` lists it.
fn environment(
    root: &Root,
    hook: &Hook,
    verb: Verb,
    own: &std::path::Path,
) -> Vec<(String, OsString)> {
    let lines = |items: Vec<String>| OsString::from(items.join("\n"));
    let addresses = |addresses: &[std::net::IpAddr]| -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    };
    let nodes = |wanted: Option<&str>| {
        let of = |peer: &&super::Peer| wanted.is_none_or(|role| peer.role == role);
        let peers = hook.cluster.nodes.iter().filter(of);
        lines(peers.flat_map(|peer| addresses(&peer.addresses)).collect())
    };
    let ports = hook.host.ports.iter().map(|port| {
        let from = port.from.join(",");
        format!(
            "{} {} {} {}",
            port.protocol,
            port.first,
            port.last,
            if from.is_empty() { "-" } else { &from }
        )
    });
    // Of a host that is not this one, its own programs first.
    let own_path = (!root.is_live()).then(|| {
        PATH.map(|path| root.outside(path).display().to_string())
            .join(":")
    });
    let path = own_path.into_iter().chain([PATH.join(":")]);
    let root_path = match root.is_live() {
        true => OsString::new(),
        false => root.outside("").into_os_string(),
    };
    let mut all: Vec<(String, OsString)> = vec![
        ("PATH".into(), path.collect::<Vec<_>>().join(":").into()),
        ("HOME".into(), "/root".into()),
        ("LANG".into(), "C.UTF-8".into()),
        ("CHASI_VERSION".into(), VERSION.to_string().into()),
        ("CHASI_PLUGIN".into(), hook.plugin.name.as_str().into()),
        ("CHASI_PHASE".into(), hook.phase.name().into()),
        ("CHASI_VERB".into(), verb.name().into()),
        ("CHASI_ROOT".into(), root_path),
        ("CHASI_STATE".into(), own.as_os_str().to_owned()),
        ("CHASI_HOST".into(), hook.host.name.as_str().into()),
        ("CHASI_ROLE".into(), hook.host.role.as_str().into()),
        (
            "CHASI_ADDRESSES".into(),
            lines(addresses(&hook.host.addresses)),
        ),
        (
            "CHASI_SSH_PORT".into(),
            hook.host.ssh_port.to_string().into(),
        ),
        ("CHASI_PORTS".into(), lines(ports.collect())),
        ("CHASI_CLUSTER".into(), hook.cluster.name.as_str().into()),
        ("CHASI_NODES".into(), nodes(None)),
        ("CHASI_CONTROL_PLANES".into(), nodes(Some("control-plane"))),
        (
            "CHASI_POD_CIDRS".into(),
            lines(hook.cluster.pod_cidrs.clone()),
        ),
        (
            "CHASI_SERVICE_CIDRS".into(),
            lines(hook.cluster.service_cidrs.clone()),
        ),
    ];
    let settings = hook.settings.iter();
    all.extend(settings.map(|(name, value)| (name.variable(), value.variable().into())));
    all
}

/// What its answer is, or why it failed, and what it said of that.
fn judge(said: &Said, seconds: u16) -> Result<Reply, Why> {
    let answer = (!said.is_cut)
        .then(|| serde_json::from_slice::<Reply>(&said.stdout))
        .transpose();
    let reply = match answer {
        Ok(Some(reply)) => bounded(reply),
        Ok(None) => Err(format!("its answer is longer than {ANSWER} bytes")),
        Err(cause) => Err(format!("its answer is not what a plugin says: {cause}")),
    };
    let end = || end_of(&said.stderr);
    match (said.ended, reply) {
        (Ended::Exited(0), Ok(reply)) => Ok(reply),
        (Ended::Exited(0), Err(message)) => Err(Why {
            message,
            said: end(),
        }),
        (Ended::Exited(code), reply) => Err(Why {
            message: match reply {
                Ok(reply) if !reply.message.is_empty() => reply.message,
                _ => format!("it exited with {code}"),
            },
            said: end(),
        }),
        (Ended::Signalled(number), _) => Err(Why {
            message: format!("signal {number} ended it"),
            said: end(),
        }),
        (Ended::TooLong, _) => Err(Why {
            message: format!(
                "it was ended after {seconds} s, the `timeoutSeconds` of its manifest"
            ),
            said: end(),
        }),
    }
}

/// Why a plugin failed.
#[derive(Debug)]
struct Why {
    message: String,
    said: String,
}

fn failure(hook: &Hook, verb: Verb, why: Why) -> Error {
    let (name, phase) = (&hook.plugin.name, hook.phase);
    let error = Error::new(
        Kind::Failed,
        format!(
            "the plugin `{name}` failed to {} at {phase}: {}",
            verb.name(),
            why.message
        ),
    );
    let error = match why.said.is_empty() {
        true => error,
        false => error.because(why.said),
    };
    match verb {
        Verb::Check | Verb::Apply => error.hint(format!(
            "mend what it says, then run the same command again: it goes on there; to go on without `{name}`, turn it off below `plugins` in the Clusterfile: `enabled: false`"
        )),
        Verb::Undo => error.hint(format!(
            "mend what it says, then run the same command again; `chasi run` and `chasi delete` go past it with `--leave-plugin {name}`, which leaves what it did"
        )),
    }
}

fn bounded(reply: Reply) -> Result<Reply, String> {
    let is_line = |text: &String| text.len() <= LINE && !text.chars().any(char::is_control);
    let lines = || std::iter::once(&reply.message).chain(&reply.notes);
    if reply.notes.len() > NOTES || !lines().all(is_line) {
        return Err(format!(
            "its answer has more than {NOTES} notes, or one that is not a line of at most {LINE} bytes"
        ));
    }
    Ok(reply)
}

/// The last lines of what it said, without what a terminal would obey.
fn end_of(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = lines.len().saturating_sub(10);
    let end = lines.get(last..).unwrap_or_default().join("\n");
    end.chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .collect()
}

/// What the full log says of it.
fn log(hook: &Hook, verb: Verb, said: &Said) -> String {
    let how = match said.ended {
        Ended::Exited(code) => format!("it exited with {code}"),
        Ended::Signalled(number) => format!("signal {number} ended it"),
        Ended::TooLong => "it took too long, and was ended".to_owned(),
    };
    format!(
        "plugin `{}` {} at {}\n{}{}\n({how})\n",
        hook.plugin.name,
        verb.name(),
        hook.phase,
        String::from_utf8_lossy(&said.stderr),
        String::from_utf8_lossy(&said.stdout),
    )
}
