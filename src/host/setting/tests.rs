use super::*;

fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let root = Root::at(directory.path()).unwrap();
    (directory, root)
}

fn text(root: &Root, path: &str) -> String {
    read(root, path).unwrap().unwrap()
}

fn named(name: &str) -> Settings {
    Settings {
        hostname: Some(name.into()),
        swap_off: false,
    }
}

#[test]
fn a_host_gets_a_name_and_its_old_one_back() {
    let (_directory, root) = host(&[
        ("proc/sys/kernel/hostname", "old\n"),
        ("etc/hostname", "old.example\n"),
    ]);
    assert!(!settled(&root, &named("new")).unwrap());
    apply(&root, &named("new")).unwrap();
    assert!(settled(&root, &named("new")).unwrap());
    apply(&root, &named("newer")).unwrap();
    assert_eq!(
        (
            text(&root, HOSTNAME).as_str(),
            text(&root, HOSTNAME_FILE).as_str()
        ),
        ("newer", "newer\n")
    );
    assert_eq!(undo(&root).unwrap(), [""; 0]);
    assert_eq!(
        (
            text(&root, HOSTNAME).as_str(),
            text(&root, HOSTNAME_FILE).as_str()
        ),
        ("old", "old.example\n")
    );
}

#[test]
fn a_name_that_someone_gave_since_stays() {
    let (_directory, root) = host(&[("proc/sys/kernel/hostname", "old\n"), ("etc/fstab", "")]);
    apply(&root, &named("new")).unwrap();
    fs::write(root.outside(HOSTNAME_FILE), "theirs\n").unwrap();
    undo(&root).unwrap();
    assert_eq!(text(&root, HOSTNAME_FILE), "theirs\n");
    assert_eq!(text(&root, HOSTNAME), "old");
}

#[test]
fn what_is_no_name_is_refused() {
    let (_directory, root) = host(&[]);
    for name in ["", "a b", "a/b", &"x".repeat(65), "a\n"] {
        assert_eq!(
            apply(&root, &named(name)).unwrap_err().kind(),
            Kind::Input,
            "{name}"
        );
    }
}

#[test]
fn swap_leaves_fstab_and_comes_back_to_it() {
    let fstab = "# swap was here\n/dev/sda1 / ext4 defaults 0 1\n/dev/sda2\tnone\tswap\tsw 0 0\n/swap none swap sw 0 0";
    let (_directory, root) = host(&[
        ("etc/fstab", fstab),
        (
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/sda2 partition 1024 0 -2\n",
        ),
    ]);
    let off = Settings {
        hostname: None,
        swap_off: true,
    };
    assert!(!settled(&root, &off).unwrap());
    apply(&root, &off).unwrap();
    assert_eq!(
        text(&root, "/etc/fstab"),
        "# swap was here\n/dev/sda1 / ext4 defaults 0 1\n# off by chasi: /dev/sda2\tnone\tswap\tsw 0 0\n# off by chasi: /swap none swap sw 0 0"
    );
    fs::write(
        root.outside("/proc/swaps"),
        "Filename Type Size Used Priority\n",
    )
    .unwrap();
    assert!(settled(&root, &off).unwrap());
    undo(&root).unwrap();
    assert_eq!(text(&root, "/etc/fstab"), fstab);
}
