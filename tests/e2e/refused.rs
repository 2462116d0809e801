//! What cannot be is refused with an error that says where, what was seen, what was
//! expected and what to do, and no host is changed by then.

use std::path::Path;

use crate::site::{Hosts, Site};
use crate::snapshot::Snapshot;
use crate::watched::{Ended, Watched};

/// Runs a Clusterfile that must be refused.
fn refused(site: &Site, clusterfile: &str, code: i32, kind: &str) -> Ended {
    refused_with(site, &["run", "--yes"], clusterfile, code, kind)
}

/// The same with other arguments.
fn refused_with(
    site: &Site,
    arguments: &[&str],
    clusterfile: &str,
    code: i32,
    kind: &str,
) -> Ended {
    let before = Snapshot::of_hosts(&site.lab);
    let run = site.chasi_with(arguments, clusterfile);
    let ended = Watched::start(run).end();
    assert_eq!(ended.code, Some(code), "{}", ended.told);
    assert_eq!(ended.failure["kind"], kind, "{}", ended.told);
    before.assert_again(&site.lab);
    ended
}

impl Ended {
    /// The error is about this host.
    fn on(self, host: &str) -> Ended {
        assert_eq!(self.failure["host"], host, "{}", self.told);
        self
    }

    /// The message has these parts.
    fn says(self, parts: &[&str]) -> Ended {
        self.has("message", parts)
    }

    /// A cause has these parts.
    fn because(self, parts: &[&str]) -> Ended {
        self.has("causes", parts)
    }

    /// A hint has these parts.
    fn advises(self, parts: &[&str]) -> Ended {
        self.has("hints", parts)
    }

    fn has(self, field: &str, parts: &[&str]) -> Ended {
        let text = match self.failure[field].as_str() {
            Some(text) => text.to_owned(),
            None => self.failure[field].to_string(),
        };
        for part in parts {
            assert!(text.contains(part), "{field} lacks {part}: {text}");
        }
        self
    }
}

const UNCHANGED: &str = "nothing has been changed on any host";

#[test]
fn a_host_with_another_key_is_refused() {
    let mut site = Site::shared();
    site.bare();
    let right = site.lab.host("node-4")["hostKey"].clone();
    let right = right.as_str().unwrap();
    // Of nothing at all.
    let wrong = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    site.write("wrong-key", &site.clusterfile().replace(right, wrong));
    // A worker: it could be left for later if it did not answer.
    refused(&site, "wrong-key", 4, "check")
        .on("node-4")
        .says(&[right, wrong, "is expected"])
        .advises(&["ssh-keygen -lf", &format!("hostKey: {right}")]);
    site.leaves(Hosts::Bare);
}

#[test]
fn a_clusterfile_with_an_unknown_field_is_refused() {
    let mut site = Site::shared();
    site.bare();
    site.write(
        "unknown",
        &site.clusterfile().replace("  image:", "  imagee:"),
    );
    let ended = refused(&site, "unknown", 3, "input")
        .says(&["unknown field `imagee`"])
        .advises(&["`image`"]);
    assert_eq!(ended.failure["place"]["line"], 6, "{}", ended.told);
    assert_eq!(ended.failure["place"]["column"], 3, "{}", ended.told);
    site.leaves(Hosts::Bare);
}

#[test]
fn an_image_that_is_not_there_is_refused() {
    let mut site = Site::shared();
    site.bare();
    let text = site
        .clusterfile()
        .replace("chasi/demo:1.34.4", "chasi/none:1");
    site.write("no-image", &text);
    refused(&site, "no-image", 8, "not-found")
        .says(&["chasi/none:1"])
        .advises(&["chasi pull chasi/none:1"]);
    site.leaves(Hosts::Bare);
}

#[test]
fn a_port_that_is_in_use_is_refused() {
    let mut site = Site::shared();
    site.bare();
    let listen = "systemd-socket-activate --listen=10250 sleep infinity";
    let listens = "until ss -tln | grep -q :10250; do sleep 0.05; done";
    let squat = format!("systemd-run --quiet --unit=squatter {listen}; {listens}");
    site.lab.sh("node-3", &squat);
    refused(&site, "Clusterfile", 4, "check")
        .on("node-3")
        .says(&["port 10250 is in use"])
        .because(&["expected: a free port"])
        .advises(&["ss -tlnp 'sport = :10250'", UNCHANGED]);
    site.lab.sh("node-3", "systemctl stop squatter");
    site.leaves(Hosts::Bare);
}

#[test]
fn a_disk_that_is_too_small_or_full_is_refused() {
    let mut site = Site::shared();
    site.bare();
    let agent = Path::new(env!("CARGO_BIN_EXE_chasi")).metadata().unwrap();
    // Room for the agent that looks, and for little of the image.
    let small = agent.len() + (100 << 20);
    let mount = |size: u64| {
        let options = format!("mount -t tmpfs -o mode=755,size={size} none /var/lib");
        site.lab.sh("node-2", &options);
    };
    let unmount = || site.lab.sh("node-2", "umount /var/lib");
    mount(small);
    // That it is in memory is wrong as well.
    let ignoring = ["run", "--yes", "--ignore", "resources.filesystem"];
    refused_with(&site, &ignoring, "Clusterfile", 4, "check")
        .on("node-2")
        .says(&[" free where `/var/lib"])
        .because(&["expected: ", "for the image, unpacked"])
        .advises(&["free some space", UNCHANGED]);
    unmount();
    // Not even for the agent.
    mount(1 << 20);
    refused(&site, "Clusterfile", 4, "check")
        .on("node-2")
        .says(&["the disk is full", "no room for the agent"])
        .because(&["expected: "])
        .advises(&["df -h /var/lib", "nothing has been changed"]);
    unmount();
    site.leaves(Hosts::Bare);
}
