//! Where programs are told to go through a proxy.
//!
//! A proxy's address may hold a password, so it is never told: only that there is
//! one, where that is said, and what is excepted.

use serde::{Deserialize, Serialize};

use super::Source;

/// A place that names a proxy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// The file.
    pub file: String,
    /// The variable, such as `HTTPS_PROXY`.
    pub variable: String,
    /// What the same file says of `NO_PROXY`; empty when it says nothing.
    pub except: String,
}

/// Variables that name a proxy, in small letters.
const VARIABLES: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];

pub(super) fn proxies(source: &Source) -> Vec<Proxy> {
    let mut files = vec![
        "/etc/environment".to_owned(),
        "/etc/systemd/system.conf".to_owned(),
    ];
    for directory in [
        "/etc/systemd/system.conf.d",
        "/etc/systemd/system/containerd.service.d",
        "/etc/systemd/system/kubelet.service.d",
        "/etc/systemd/system/service.d",
    ] {
        let names = source.names(directory).into_iter();
        let names = names.filter(|name| name.ends_with(".conf"));
        files.extend(names.map(|name| format!("{directory}/{name}")));
    }
    files
        .into_iter()
        .filter_map(|file| {
            let text = source.text(&file)?;
            of_text(&text, &file)
        })
        .collect()
}

/// The first proxy that a file names: `NAME=value`, alone or in `Environment=` and
/// `DefaultEnvironment=`, with or without quotes.
fn of_text(text: &str, file: &str) -> Option<Proxy> {
    let mut proxy = None;
    let mut except = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let line = ["DefaultEnvironment=", "Environment=", "export "]
            .iter()
            .find_map(|start| line.strip_prefix(start))
            .unwrap_or(line);
        for word in line.split_whitespace() {
            let Some((name, value)) = word.trim_matches(['"', '\'']).split_once('=') else {
                continue;
            };
            let value = value.trim_matches(['"', '\'']);
            let small = name.to_ascii_lowercase();
            if small == "no_proxy" {
                except = value.to_owned();
            } else if VARIABLES.contains(&small.as_str()) && !value.is_empty() {
                proxy.get_or_insert_with(|| name.to_owned());
            }
        }
    }
    Some(Proxy {
        file: file.to_owned(),
        variable: proxy?,
        except,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_found_and_their_addresses_are_not_told() {
        for text in [
            "HTTPS_PROXY=http://me:secret@p:1\nNO_PROXY=10.0.0.0/8\n",
            "# x\n[Service]\nEnvironment=\"https_proxy=http://me:secret@p:1\" no_proxy=10.0.0.0/8\n",
            "DefaultEnvironment='https_proxy=http://me:secret@p:1' NO_PROXY=10.0.0.0/8",
        ] {
            let found = of_text(text, "f").unwrap();
            assert_eq!(found.variable.to_lowercase(), "https_proxy", "{text}");
            assert_eq!(found.except, "10.0.0.0/8", "{text}");
            assert!(!format!("{found:?}").contains("secret"));
        }
        assert_eq!(of_text("#HTTP_PROXY=x\nHTTP_PROXY=\nA=b\n", "f"), None);
    }
}
