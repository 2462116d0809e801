//! A host that chasi has left is the host that it came to.

#[path = "support/host.rs"]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use chasi::event::Context;
use chasi::host::journal::Journal;
use chasi::host::leave::{self, Traces};
use chasi::host::setting::{self, Settings};
use chasi::host::switch;
use support::{Host, Picture, directory, first, prepare, second};

/// A host before chasi, and the same host in the second of two generations.
fn lived_in() -> (tempfile::TempDir, Host, Picture) {
    let directory = directory();
    let host = Host::at(&directory.path().join("host"));
    host.write("proc/sys/kernel/hostname", "old");
    host.write("proc/sys/net/ipv4/ip_forward", "0");
    prepare(&host);
    fs::remove_dir_all(host.files.join("var")).unwrap();
    fs::create_dir_all(host.files.join("var/lib")).unwrap();
    let before = host.picture();
    host.become_(&first(&host));
    let mut second = second(&host);
    second.files.push(chasi::host::recipe::ExtraFile {
        path: support::path("etc/sysctl.d/90.conf"),
        mode: 0o644,
        content: "net.ipv4.ip_forward = 1\nnet.no.such = 1\n".into(),
    });
    let number = host.become_(&second);
    let refused = setting::apply_kernel(&host.root, number).unwrap();
    assert_eq!(
        refused
            .iter()
            .map(|refused| refused.name.as_str())
            .collect::<Vec<_>>(),
        ["net.no.such"]
    );
    assert_eq!(host.read("proc/sys/net/ipv4/ip_forward"), "1");
    setting::apply(
        &host.root,
        &Settings {
            hostname: Some("new".into()),
            swap_off: false,
        },
    )
    .unwrap();
    (directory, host, before)
}

fn leave(host: &Host) -> leave::Left {
    let journal = Journal::open(&host.root, "leave").unwrap();
    leave::leave(&host.root, &journal, &Context::silent()).unwrap()
}

#[test]
fn nothing_of_chasi_stays_but_what_its_agent_needs() {
    let (_directory, host, before) = lived_in();
    host.write("var/lib/chasi/lock", "");
    host.write("var/lib/chasi/agent/chasi-1", "");
    host.write("var/lib/chasi/cluster/lock", "");
    host.write("var/lib/chasi/cluster/objects.json", "");
    let original =
        fs::metadata(host.files.join("var/lib/chasi/originals/etc/second.conf")).unwrap();
    assert_eq!(leave(&host), leave::Left::default());
    let after = host.picture();
    let rest: Vec<_> = before.difference(&after);
    assert_eq!(
        rest,
        [
            "+ var/lib/chasi: directory 755 0:0",
            "+ var/lib/chasi/agent: directory 755 0:0",
            "+ var/lib/chasi/agent/chasi-1: file 644 0:0 \"\"",
            "+ var/lib/chasi/cluster: directory 755 0:0",
            "+ var/lib/chasi/cluster/lock: file 644 0:0 \"\"",
            "+ var/lib/chasi/lock: file 644 0:0 \"\"",
        ]
    );
    let restored = fs::metadata(host.files.join("etc/second.conf")).unwrap();
    assert_eq!(
        (restored.mtime(), restored.mtime_nsec()),
        (original.mtime(), original.mtime_nsec())
    );
}

#[test]
fn what_a_user_changed_stays_and_is_told() {
    let (_directory, host, _) = lived_in();
    host.write("etc/crictl.yaml", "mine now\n");
    host.write("proc/sys/net/ipv4/ip_forward", "2");
    assert_eq!(leave(&host).kept, ["/etc/crictl.yaml"]);
    assert_eq!(host.read("etc/crictl.yaml"), "mine now\n");
    assert_eq!(host.read("proc/sys/net/ipv4/ip_forward"), "2");
}

#[test]
fn what_the_cluster_set_by_itself_is_put_back_and_what_was_there_is_known() {
    let directory = directory();
    let host = Host::at(&directory.path().join("host"));
    host.write("proc/sys/vm/overcommit_memory", "0\n");
    host.write("proc/sys/kernel/panic", "5\n");
    host.write("var/lib/theirs/x", "");
    prepare(&host);
    let traces = Traces {
        directories: &["/var/lib/theirs", "/var/lib/ours"],
        parameters: &["vm/overcommit_memory", "kernel/panic", "no/such"],
    };
    leave::note_existing(&host.root, &traces).unwrap();
    host.become_(&first(&host));
    host.write("proc/sys/vm/overcommit_memory", "1\n");
    assert_eq!(
        leave::existing(&host.root).unwrap(),
        [std::path::PathBuf::from("/var/lib/theirs")].into()
    );
    leave(&host);
    assert_eq!(host.read("proc/sys/vm/overcommit_memory"), "0");
    assert_eq!(host.read("proc/sys/kernel/panic"), "5\n");
}

#[test]
fn leaving_a_host_that_chasi_never_came_to_does_nothing() {
    let directory = directory();
    let host = Host::at(&directory.path().join("host"));
    host.write("etc/hosts", "127.0.0.1 localhost\n");
    assert_eq!(switch::recover(&host.root).unwrap(), []);
    assert_eq!(leave(&host), leave::Left::default());
    assert_eq!(host.read("etc/hosts"), "127.0.0.1 localhost\n");
    assert_eq!(fs::read_dir(host.root.state("")).unwrap().count(), 0);
}
