//! What the host knows of the API servers before it can ask one: what its
//! configuration says, and what it learned the last time.
//!
//! Both are JSON files with addresses, never names: nothing resolves names when
//! the service starts. The first belongs to the host's generation, the second to
//! the service alone.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::table::MOST;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// No list of servers is larger, in bytes.
const LARGEST: u64 = 64 << 10;

/// Where the configuration lies on a host, from its root directory.
pub const PATH: &str = "etc/chasi/api-servers.json";

/// The API servers that a host's configuration names.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Seeds {
    /// The server on this host itself, on a control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// The servers of the cluster, at most 64.
    pub servers: Vec<SocketAddr>,
}

impl Seeds {
    /// Reads a list. A file that is not there is an empty one.
    pub fn read(path: &Path) -> Result<Self> {
        use std::io::Read;
        let mut text = Vec::new();
        match std::fs::File::open(path) {
            Ok(file) => file.take(LARGEST).read_to_end(&mut text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Seeds::default());
            }
            Err(error) => Err(error),
        }
        .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
        let seeds: Seeds = serde_json::from_slice(&text).or_err(Kind::Input, || {
            format!("`{}` is not a list of API servers", path.display())
        })?;
        if seeds.servers.len() > MOST {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "`{}` names {} API servers, more than {MOST}",
                    path.display(),
                    seeds.servers.len()
                ),
            ));
        }
        Ok(seeds)
    }

    /// The file's content, always the same for the same servers.
    pub fn content(&self) -> String {
        // Addresses always have a form in JSON.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Keeps the list for the next start.
    pub fn keep(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            file::create_directories(directory)?;
        }
        file::write(path, self.content().as_bytes(), 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_in_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("balancer/servers.json");
        assert_eq!(Seeds::read(&path).unwrap(), Seeds::default());
        let seeds = Seeds {
            local: Some("10.0.0.1:6443".parse().unwrap()),
            servers: vec![
                "10.0.0.1:6443".parse().unwrap(),
                "[fd00::2]:6443".parse().unwrap(),
            ],
        };
        seeds.keep(&path).unwrap();
        seeds.keep(&path).unwrap();
        assert_eq!(Seeds::read(&path).unwrap(), seeds);
    }

    #[test]
    fn the_files_form_is_pinned() {
        let seeds = Seeds {
            local: None,
            servers: vec!["10.0.0.1:6443".parse().unwrap()],
        };
        assert_eq!(
            seeds.content(),
            "{\n  \"servers\": [\n    \"10.0.0.1:6443\"\n  ]\n}\n"
        );
    }

    #[test]
    fn what_is_not_a_list_of_addresses_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("servers.json");
        let many = format!(
            "{{\"servers\": [{}]}}",
            vec!["\"10.0.0.1:6443\""; 65].join(",")
        );
        for text in [
            "",
            "{}",
            "[]",
            "{\"servers\": [\"api.example:6443\"]}",
            "{\"servers\": [], \"x\": 1}",
            &many,
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Seeds::read(&path).unwrap_err();
            assert_eq!(error.kind(), Kind::Input, "{text}");
            assert!(error.message().contains("servers.json"));
        }
    }
}
