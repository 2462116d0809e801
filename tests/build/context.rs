//! What `COPY` takes, and what is refused.

use std::os::unix::fs::symlink;

use crate::site::Site;

#[test]
fn files_go_where_the_kubefile_says_with_normal_modes_and_owners() {
    let site = Site::new();
    site.kubefile(
        "FROM scratch\nLAYER app\n\
         COPY tool usr/bin/\n\
         COPY --chmod=0600 --chown=7:8 conf etc/site.conf\n\
         COPY tree /opt/site\n\
         COPY *.txt 'with blank' /usr/share/site/\n",
    )
    .file("tool", "#!/bin/sh\n")
    .mode("tool", 0o700)
    .file("conf", "a=b\n")
    .mode("conf", 0o666)
    .file("tree/x/y", "y")
    .file("1.txt", "1")
    .file("with blank", "2");
    symlink("x/y", site.context().join("tree/link")).unwrap();
    site.built(&[]);
    let tree = site.tree("site/image:1");
    let expected = [
        ("etc", "d 755 0:0"),
        ("etc/site.conf", "f 600 7:8 a=b\n"),
        ("opt", "d 755 0:0"),
        ("opt/site", "d 755 0:0"),
        ("opt/site/link", "l x/y"),
        ("opt/site/x", "d 755 0:0"),
        ("opt/site/x/y", "f 644 0:0 y"),
        ("usr", "d 755 0:0"),
        ("usr/bin", "d 755 0:0"),
        ("usr/bin/tool", "f 755 0:0 #!/bin/sh\n"),
        ("usr/share", "d 755 0:0"),
        ("usr/share/site", "d 755 0:0"),
        ("usr/share/site/1.txt", "f 644 0:0 1"),
        ("usr/share/site/with blank", "f 644 0:0 2"),
    ];
    let found: Vec<_> = tree
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_whole_context_leaves_out_what_is_not_meant() {
    let site = Site::new();
    site.kubefile("FROM scratch\nLAYER app\nCOPY . /\n")
        .file(".kubeignore", "*.md\netc/secret\n")
        .file("README.md", "")
        .file("etc/secret", "")
        .file("etc/kept", "");
    site.built(&[]);
    let paths: Vec<_> = site
        .tree("site/image:1")
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    assert_eq!(paths, ["etc", "etc/kept"]);
    // The lock file lies in the context as well now.
    assert!(site.context().join("Kubefile.lock").exists());
    site.built(&["--locked"]);
}

#[test]
fn later_files_replace_earlier_ones_within_and_between_layers() {
    let site = Site::new();
    site.kubefile("FROM scratch\nLAYER os\nCOPY a etc/x\nCOPY b etc/x\nCOPY a etc/y\nLAYER app\nCOPY b etc/y\n")
        .file("a", "a")
        .file("b", "b");
    let summary = site.built(&[]);
    assert_eq!(summary["rootfs"][0]["layers"][0]["kind"], "os");
    let tree = site.tree("site/image:1");
    assert_eq!(tree[1], ("etc/x".into(), "f 644 0:0 b".into()));
    assert_eq!(tree[2], ("etc/y".into(), "f 644 0:0 b".into()));
}

#[test]
fn nothing_outside_the_context_gets_in() {
    let site = Site::new();
    std::fs::write(site.path("outside"), "secret").unwrap();
    site.kubefile("FROM scratch\nLAYER app\nCOPY out/outside etc/\n");
    symlink("..", site.context().join("out")).unwrap();
    site.build(&[]).fails(3, &["symbolic link"]);
    site.kubefile("FROM scratch\nLAYER app\nCOPY ../outside etc/\n");
    site.build(&[])
        .fails(3, &["a source must lie in the context"]);
    site.kubefile("FROM scratch\nIMAGES out/outside\n");
    site.build(&[]).fails(3, &["symbolic link"]);
}

#[test]
fn a_mistake_is_pointed_at_with_a_remedy() {
    let site = Site::new();
    site.file("a", "a");
    for (text, code, parts) in [
        (
            "FROM scratch\nLAYER kubernets\nCOPY a etc/\n",
            3,
            [
                "`kubernets` is not a kind of layer",
                "did you mean `kubernetes`?",
            ],
        ),
        (
            "FROM scratch\nLAYER app\n",
            3,
            ["the layer `app` has no files", "add `COPY` or `ADD`"],
        ),
        (
            "FROM scratch\nLAYER app\nCOPY b etc/\n",
            8,
            ["there is no `b` in the context", "hint: "],
        ),
        (
            "FROM scratch\nLAYER app\nCOPY a bin/\n",
            3,
            ["`bin/a` cannot be in a cluster image", "usr/bin/a"],
        ),
        (
            "FROM scratch\nLAYER app\nCOPY a etc\n",
            3,
            ["`etc` must be a directory", "`etc/`"],
        ),
        (
            "FROM scratch\nIMAGE A:b\n",
            3,
            ["`A:b` is not an image reference", "hint: "],
        ),
        (
            "FROM scratch\nRUN make\n",
            3,
            ["chasi has no `RUN`", "ADD --unpack"],
        ),
    ] {
        site.kubefile(text);
        site.build(&[]).fails(code, &parts);
    }
    assert!(site.store().tags().unwrap().is_empty());
    std::fs::remove_file(site.context().join("Kubefile")).unwrap();
    site.build(&[])
        .fails(8, &["there is no Kubefile", "`-f` names it"]);
    site.build(&["--build-arg", "X"])
        .fails(2, &["`--build-arg X` has no value"]);
}

#[test]
fn arguments_and_platforms_are_values_of_variables() {
    let site = Site::new();
    site.kubefile("ARG NAME=a\nFROM scratch\nENV ARCH=${TARGETARCH}\nLABEL name=${NAME}\nLAYER app\nCOPY ${NAME} etc/\n")
        .file("a", "a")
        .file("b", "b");
    site.built(&[
        "--build-arg",
        "NAME=b",
        "--platform",
        "linux/amd64,linux/arm64",
    ]);
    let image = site.image("site/image:1");
    let platforms: Vec<_> = image
        .rootfs
        .iter()
        .map(|rootfs| rootfs.platform.to_string())
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    assert_eq!(image.rootfs[1].env["ARCH"], "arm64");
    assert_eq!(image.rootfs[1].labels["name"], "b");
    site.build(&["--build-arg", "NME=b"])
        .fails(2, &["--build-arg NAME="]);
}
