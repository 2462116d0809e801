//! What is left in the store by builds that run at once and by builds that are
//! killed.

use std::time::Duration;

use chasi::event::Context;

use crate::site::{Outcome, Site, chasi};

fn fill(site: &Site) {
    site.kubefile("FROM scratch\nLAYER os\nCOPY a opt/\nLAYER app\nCOPY b opt/\n");
    for name in ["a", "b"] {
        let content: Vec<u8> = (0..3_000_000u32)
            .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        site.file(name, [name.as_bytes(), &content].concat());
    }
}

fn check(site: &Site) {
    let findings = site.store().fsck(&Context::silent()).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn builds_that_run_at_once_do_not_disturb_each_other() {
    let site = Site::new();
    fill(&site);
    let names: Vec<String> = (0..4).map(|index| format!("site/image:{index}")).collect();
    let builds: Vec<_> = names.iter().map(|name| site.spawn(name)).collect();
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }
    let digests: Vec<_> = names.iter().map(|name| site.image(name).digest).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    check(&site);
}

#[test]
fn a_killed_build_leaves_a_sound_store_and_the_next_one_works() {
    let site = Site::new();
    fill(&site);
    let expected = site.built(&[])["digest"].clone();
    std::fs::remove_dir_all(site.path("store")).unwrap();
    for delay in [5, 20, 50, 90, 140, 200, 300] {
        let mut build = site.spawn("site/image:1");
        // Where it is killed does not matter, only that it differs.
        std::thread::sleep(Duration::from_millis(delay));
        build.kill().unwrap();
        build.wait().unwrap();
        if site.path("store/oci-layout").exists() {
            check(&site);
        }
        let _ = std::fs::remove_dir_all(site.path("cache/build/layers"));
    }
    assert_eq!(site.built(&[])["digest"], expected);
    check(&site);
}

#[test]
fn a_disk_that_is_full_is_said_and_leaves_nothing_behind() {
    let site = Site::new();
    fill(&site);
    // No file may grow beyond a megabyte: writing fails as on a full disk.
    let mut command = site.command("sh");
    command
        .args(["-c", r#"trap "" XFSZ; ulimit -f 1024; exec "$@""#, "sh"])
        .arg(chasi())
        .args(["build", "-t", "site/image:1"])
        .arg(site.context());
    Outcome::of(&mut command).fails(10, &["cannot write `opt/"]);
    check(&site);
    let left = std::fs::read_dir(site.path("store/.chasi/incoming")).unwrap();
    assert_eq!(left.count(), 0);
    site.built(&[]);
}
