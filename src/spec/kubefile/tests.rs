use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
# The demo.
ARG VERSION=1.2.3 # not here
"#;

fn arguments(values: &[(&str, &str)]) -> Arguments {
    Arguments {
        values: values
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        os: "linux".into(),
        architecture: "amd64".into(),
    }
}

fn recipe(text: &str) -> Result<Recipe> {
    Kubefile::parse("Kubefile", text)?.evaluate(&arguments(&[]))
}

/// An error as the command line would show it, with the marked text.
fn shown(error: &Error) -> String {
    let mut text = format!("{}\n", error.message());
    if let Some(snippet) = error.snippet() {
        let (line, column) = snippet.line_column();
        let marked = &snippet.text[snippet.span.clone()];
        let _ = writeln!(text, "  at {}:{line}:{column} `{marked}`", snippet.path);
    }
    for hint in error.hints() {
        let _ = writeln!(text, "  hint: {hint}");
    }
    text
}

#[test]
fn a_whole_kubefile_is_understood() {
    let text = r#"
ARG VERSION=v1.34.4
ARG SITE
FROM chasi/base:${VERSION}
ENV A=1 B="two words" \
    # a comment inside
    C=${A}${SITE:-none}
LABEL org.opencontainers.image.title="Demo $VERSION"
LAYER kubernetes
COPY --chmod=0755 --chown=1:2 bin/* 'a b' usr/bin/
add --checksum=https://example.com/SUMS --unpack --strip=1 https://example.com/${TARGETARCH}.tgz /opt
INCLUDE chasi/flannel:1
LAYER app
COPY . /
IMAGE docker.io/library/busybox:1.37 quay.io/a/b@sha256:00
IMAGES images.txt
"#;
    let recipe = recipe(text).unwrap();
    assert_eq!(recipe.base.unwrap().value, "chasi/base:v1.34.4");
    let expected = [("A", "1"), ("B", "two words"), ("C", "1none")];
    assert!(
        recipe
            .environment
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .eq(expected)
    );
    assert_eq!(
        recipe.labels["org.opencontainers.image.title"],
        "Demo v1.34.4"
    );
    assert_eq!(recipe.images.len(), 2);
    assert_eq!(recipe.image_files[0].value, "images.txt");
    let [
        Section::Layer(first),
        Section::Include(flannel),
        Section::Layer(last),
    ] = &recipe.sections[..]
    else {
        panic!("{:?}", recipe.sections);
    };
    assert_eq!(
        (first.kind.value.as_str(), last.kind.value.as_str()),
        ("kubernetes", "app")
    );
    assert_eq!(flannel.value, "chasi/flannel:1");
    let [bin, blank, archive] = &first.steps[..] else {
        panic!("{:?}", first.steps)
    };
    assert_eq!(
        bin.source.value,
        Source::Files {
            pattern: "bin/*".into(),
            glob: true
        }
    );
    assert_eq!(
        bin.placing,
        Placing {
            mode: Some(0o755),
            owner: Some((1, 2))
        }
    );
    assert_eq!(
        blank.source.value,
        Source::Files {
            pattern: "a b".into(),
            glob: false
        }
    );
    assert_eq!(
        archive.source.value,
        Source::Url {
            url: "https://example.com/amd64.tgz".into(),
            checksum: Some(Checksum::Url("https://example.com/SUMS".into())),
        }
    );
    assert_eq!(archive.unpack, Some(1));
    assert_eq!(
        archive.destination.value,
        Destination {
            path: "opt".into(),
            directory: false
        }
    );
    assert_eq!(
        last.steps[0].destination.value,
        Destination {
            path: String::new(),
            directory: true
        }
    );
}

#[test]
fn what_is_given_replaces_a_default_and_fills_a_gap() {
    let text = "ARG A=1\nARG B\nFROM x:${A}${B}\n";
    let kubefile = Kubefile::parse("Kubefile", text).unwrap();
    let recipe = kubefile
        .evaluate(&arguments(&[("A", "2"), ("B", "3")]))
        .unwrap();
    assert_eq!(recipe.base.unwrap().value, "x:23");
}

#[test]
fn quotes_keep_patterns_from_being_patterns() {
    let text = "FROM scratch\nARG X='*'\nLAYER app\nCOPY a\\*b \"c[\" $X \"$X\" opt/";
    let recipe = recipe(text).unwrap();
    let Section::Layer(layer) = &recipe.sections[0] else {
        panic!()
    };
    let sources: Vec<_> = layer
        .steps
        .iter()
        .map(|step| step.source.value.clone())
        .collect();
    let file = |pattern: &str, glob| Source::Files {
        pattern: pattern.into(),
        glob,
    };
    assert_eq!(
        sources,
        [
            file("a*b", false),
            file("c[", false),
            file("*", true),
            file("*", false)
        ]
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_trouble() {
    let recipe = recipe("\u{feff}FROM scratch\r\nIMAGE a \\\r\n  b\r\n").unwrap();
    assert_eq!(recipe.images.len(), 2);
}

#[test]
fn errors_of_the_grammar_point_into_the_file_and_name_a_remedy() {
    let mut all = String::new();
    for text in [
        "",
        WHOLE,
        "IMAGE x\n",
        "FORM scratch\n",
        "FROM\n",
        "FROM a b\n",
        "FROM a AS b\n",
        "FROM a\nFROM b\n",
        "FROM scratch\nFOOBAR x\n",
        "FROM scratch\nRUN make\n",
        "FROM scratch\nKUBEVERSION 1.34\n",
        "FROM scratch\nCMDS [\"a\"]\n",
        "FROM scratch\nWORKDIR /\n",
        "FROM scratch\nLAYER\n",
        "FROM scratch\nCOPY a opt/\n",
        "FROM scratch\nLAYER app\nINCLUDE x\nCOPY a opt/\n",
        "FROM scratch\nLAYER app\nCOPY a\n",
        "FROM scratch\nLAYER app\nCOPY --chmd=1 a opt/\n",
        "FROM scratch\nLAYER app\nCOPY --unpack a opt/\n",
        "FROM scratch\nLAYER app\nCOPY --from=x a opt/\n",
        "FROM scratch\nLAYER app\nADD --unpack=yes a opt/\n",
        "FROM scratch\nLAYER app\nADD --checksum a opt/\n",
        "FROM scratch\nLAYER app\nADD --strip=1 --strip=2 a opt/\n",
        "FROM scratch\nLAYER app\nCOPY [\"a\", \"b\"]\n",
        "FROM scratch\nLAYER app\nCOPY <<EOF opt/\n",
        "FROM scratch\nENV A\n",
        "FROM scratch\nENV 1A=2\n",
        "FROM scratch\nLABEL =2\n",
        "FROM scratch\nARG A-B\n",
        "FROM scratch\nIMAGE --all x\n",
        "FROM scratch\nENV A=\"b\nIMAGE x\n",
        "FROM scratch\nENV A=${B\n",
        "FROM scratch\nENV A=${B?x}\n",
    ] {
        let error = Kubefile::parse("Kubefile", text).unwrap_err();
        all.push_str(&shown(&error));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn errors_of_values_point_into_the_file_and_name_a_remedy() {
    let mut all = String::new();
    for text in [
        "IMAGE ${VERSON}",
        "IMAGE ${SITE}",
        "IMAGE ${OTHER}",
        "IMAGE \"\"",
        "ARG TARGETARCH=x",
        "COPY --chmod=755x a opt/",
        "COPY --chmod=4755 a opt/",
        "COPY --chown=root:root a opt/",
        "COPY ../a opt/",
        "COPY \"\" opt/",
        "COPY a \"\"",
        "COPY a opt/../x",
        "COPY a b opt",
        "COPY a* opt",
        "COPY https://example.com/x opt/",
        "ADD ftp://example.com/x opt/",
        "ADD https://user:secret@example.com/x opt/",
        "ADD https:///x opt/",
        "ADD --checksum=md5:00 https://example.com/x opt/",
        "ADD --checksum=https://example.com/x a opt/",
        "ADD --strip=1 https://example.com/x opt/",
        "ADD --unpack --strip=-1 https://example.com/x opt/",
        &format!(
            "ADD --checksum={} https://a/x https://a/y opt/",
            crate::digest::Digest::of("")
        ),
    ] {
        let text = format!("ARG VERSION=1\nARG SITE\nFROM scratch\nLAYER app\n{text}\n");
        let error = recipe(&text).unwrap_err();
        all.push_str(&shown(&error));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn an_argument_that_the_kubefile_does_not_have_is_refused() {
    let kubefile = Kubefile::parse("Kubefile", "ARG VERSION=1\nFROM scratch\n").unwrap();
    let error = kubefile
        .evaluate(&arguments(&[("VERSON", "2")]))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(error.hints(), ["did you mean `--build-arg VERSION=…`?"]);
    let error = kubefile
        .evaluate(&arguments(&[("TARGETOS", "plan9")]))
        .unwrap_err();
    assert_eq!(error.message(), "`TARGETOS` cannot be set");
}

#[test]
fn variables_that_double_each_other_are_stopped() {
    let mut text = String::from("ARG A0=xxxxxxxxxxxxxxxx\n");
    for index in 1..40 {
        let _ = writeln!(text, "ARG A{index}=${{A{0}}}${{A{0}}}", index - 1);
    }
    let error = recipe(&format!("{text}FROM scratch\n")).unwrap_err();
    assert!(error.message().contains("longer"), "{error}");
}

#[test]
fn a_kubefile_has_a_limit() {
    let text = "#".repeat(LIMIT + 1);
    assert!(
        Kubefile::parse("Kubefile", text)
            .unwrap_err()
            .message()
            .contains("larger")
    );
}

/// Text made of pieces that mean something, so that much of it is valid.
fn likely() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\n"),
        Just("\nFROM "),
        Just("\nARG "),
        Just("\nENV "),
        Just("\nLABEL "),
        Just("\nLAYER app\n"),
        Just("COPY "),
        Just("ADD "),
        Just("IMAGE "),
        Just("INCLUDE "),
        Just("--chmod=0755 "),
        Just("--unpack "),
        Just("--checksum="),
        Just("a"),
        Just("B"),
        Just("="),
        Just(" "),
        Just("\\\n"),
        Just("\\"),
        Just("'"),
        Just("\""),
        Just("$"),
        Just("${a}"),
        Just("${B:-"),
        Just("}"),
        Just("*"),
        Just("["),
        Just("#"),
        Just("é"),
        Just("\t"),
        Just("\r\n"),
        Just("/"),
        Just("https://h/"),
        Just(".."),
        Just("'x y'"),
        Just("\"$a\""),
    ];
    prop::collection::vec(piece, 0..40)
        .prop_map(|pieces| format!("ARG a=1 B=2\nFROM scratch\nLAYER app\n{}", pieces.concat()))
}

fn check_text(text: &str) {
    let outcome = Kubefile::parse("Kubefile", text);
    let marked = |error: &Error| {
        if let Some(snippet) = error.snippet() {
            assert!(
                text.get(snippet.span.clone()).is_some(),
                "{error:?} {:?}",
                snippet.span
            );
            assert!(!error.hints().is_empty());
        }
    };
    let kubefile = match outcome {
        Ok(kubefile) => kubefile,
        Err(error) => return marked(&error),
    };
    let printed = kubefile.to_string();
    let again = Kubefile::parse("Kubefile", printed.as_str()).unwrap();
    assert_eq!(again.to_string(), printed);
    assert_eq!(again.instructions().len(), kubefile.instructions().len());
    match (
        kubefile.evaluate(&arguments(&[])),
        again.evaluate(&arguments(&[])),
    ) {
        (Ok(one), Ok(two)) => assert_eq!(meaning(&one), meaning(&two)),
        (Err(one), Err(two)) => {
            assert_eq!(one.message(), two.message());
            marked(&one);
        }
        (one, two) => panic!("{one:?} {two:?}"),
    }
}

/// What a recipe says, without places.
fn meaning(recipe: &Recipe) -> String {
    let mut text = String::new();
    let environment: &BTreeMap<_, _> = &recipe.environment;
    let _ = writeln!(text, "{environment:?} {:?}", recipe.labels);
    for image in &recipe.images {
        let _ = writeln!(text, "{}", image.value);
    }
    for section in &recipe.sections {
        match section {
            Section::Include(image) => _ = writeln!(text, "{}", image.value),
            Section::Layer(layer) => {
                for step in &layer.steps {
                    let (source, destination) = (&step.source.value, &step.destination.value);
                    let _ = writeln!(
                        text,
                        "{source:?} {destination:?} {:?} {:?}",
                        step.unpack, step.placing
                    );
                }
            }
        }
    }
    text
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check_text(&text);
    }

    #[test]
    fn what_was_read_can_be_written_and_read_again(text in likely()) {
        check_text(&text);
    }
}
