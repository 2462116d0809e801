use std::os::unix::fs::symlink;

use super::*;

fn context(files: &[&str]) -> (tempfile::TempDir, Context) {
    let directory = tempfile::tempdir().unwrap();
    for file in files {
        let path = directory.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    let context = Context::open(directory.path(), &["Kubefile".into()]).unwrap();
    (directory, context)
}

fn paths(context: &Context, pattern: &str, glob: bool) -> Vec<String> {
    let selected = context.select(pattern, glob).unwrap();
    selected
        .iter()
        .flat_map(|selected| &selected.found)
        .map(|found| found.path.clone())
        .collect()
}

#[test]
fn a_directory_has_what_is_below_it_sorted() {
    let (_directory, context) = context(&["b/y", "b/x/z", "a", "Kubefile"]);
    assert_eq!(
        paths(&context, "", false),
        ["a", "b", "b/x", "b/x/z", "b/y"]
    );
    assert_eq!(paths(&context, "b", false), ["b/x", "b/x/z", "b/y"]);
    let selected = context.select("b/y", false).unwrap();
    assert_eq!(
        (selected[0].name.as_str(), selected[0].directory),
        ("y", false)
    );
}

#[test]
fn patterns_find_files_and_directories() {
    let (_directory, context) = context(&[
        "bin/a", "bin/b", "x/bin/c", "d.yaml", "x/e.yaml", "Kubefile",
    ]);
    assert_eq!(paths(&context, "bin/*", true), ["bin/a", "bin/b"]);
    assert_eq!(paths(&context, "**/*.yaml", true), ["d.yaml", "x/e.yaml"]);
    assert_eq!(paths(&context, "*/bin", true), ["x/bin/c"]);
    assert!(context.select("Kube*", true).is_err());
}

#[test]
#[should_panic(expected = "no file of the context")]
fn a_pattern_that_fits_nothing_is_an_error() {
    let (_directory, context) = context(&["a"]);
    context.select("*.nothing", true).unwrap();
}

#[test]
fn nothing_outside_is_reached_and_links_stay_links() {
    let (directory, context) = context(&["in/a"]);
    symlink("/etc", directory.path().join("out")).unwrap();
    let error = context.select("out/passwd", false).unwrap_err();
    assert!(
        error
            .causes()
            .any(|cause| cause.to_string().contains("symbolic link")),
        "{error:?}"
    );
    let error = context.read_text("out/passwd").unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(context.select("*/passwd", true).is_err());
    let selected = context.select("out", false).unwrap();
    assert!(matches!(&selected[0].found[0].node, Node::Link(target) if target == "/etc"));
}

#[test]
fn what_is_ignored_does_not_exist() {
    let (directory, _) = context(&["a/keep", "a/drop", "b/x"]);
    std::fs::write(directory.path().join(IGNORE_FILE), "a/*\n!a/keep\nb\n").unwrap();
    let context = Context::open(directory.path(), &[]).unwrap();
    assert_eq!(paths(&context, "", false), ["a", "a/keep"]);
    let error = context.select("b", false).unwrap_err();
    assert!(error.message().contains("left out"), "{error}");
}

#[test]
fn a_missing_file_is_named_with_the_nearest_one() {
    let (_directory, context) = context(&["etc/config.yaml"]);
    let error = context.select("etc/confg.yaml", false).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.hints(), ["did you mean `etc/config.yaml`?"]);
}

#[test]
fn pipes_are_refused() {
    let (directory, context) = context(&["a"]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.path().join("p"),
        FileType::Fifo,
        Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    assert!(
        context
            .select("", false)
            .unwrap_err()
            .message()
            .contains("pipe")
    );
}
