use super::*;
use crate::spec::Clusterfile;

const SMALL: &str = "apiVersion: chasi.dev/v1
kind: Plugin
name: disk
description: makes a file system
phases: [after-host]
undo: false
settings:
  mount: {type: text, description: where}
  size: {type: integer, description: how large, default: 5}
  kind: {type: text, description: which, default: ext4, values: [ext4, xfs]}
  options: {type: list, description: how, default: []}
";

fn parse(text: &str) -> Result<Manifest> {
    Manifest::parse("plugin.yaml", text)
}

#[test]
fn what_is_left_out_has_a_default() {
    let manifest = parse(SMALL).unwrap();
    assert_eq!(manifest.timeout_seconds, 60);
    assert_eq!(manifest.default, Switch::Off);
    assert_eq!(manifest.roles, all_roles());
    let label = manifest.to_label().unwrap();
    assert_eq!(Manifest::from_label("disk", &label).unwrap(), manifest);
}

#[test]
fn a_wrong_manifest_is_pointed_into() {
    for (from, to, line, expected) in [
        (
            "name: disk",
            "name: Disk",
            3,
            "`Disk` is not a plugin's name",
        ),
        ("name: disk", "name: ../disk", 3, "is not a plugin's name"),
        (
            "chasi.dev/v1",
            "chasi.dev/v9",
            1,
            "`chasi.dev/v9` is not one of",
        ),
        ("kind: Plugin", "kind: Plug", 2, "is not one of"),
        (
            "after-host",
            "after-hosts",
            5,
            "`after-hosts` is not one of",
        ),
        ("[after-host]", "[]", 5, "it would never run"),
        ("undo: false", "undo: no", 6, "expected `true` or `false`"),
        ("undo: false\n", "", 1, "`undo` is missing"),
        (
            "undo: false",
            "undo: false\ntimeoutSeconds: 0",
            7,
            "1 to 3600",
        ),
        (
            "undo: false",
            "undo: false\ntimeoutSeconds: 9999",
            7,
            "1 to 3600",
        ),
        ("undo: false", "undo: false\nroles: []", 7, "run nowhere"),
        (
            "undo: false",
            "undo: false\nphase: x",
            7,
            "unknown field `phase`",
        ),
        (
            "undo: false",
            "undo: false\nchanges: {path: [x]}",
            7,
            "unknown field `path`",
        ),
        (
            "makes a file system",
            "\"a\\u001b[2J\"",
            4,
            "a line of at most",
        ),
        ("  size:", "  Size:", 9, "`Size` is not a setting's name"),
        (
            "default: 5",
            "default: five",
            9,
            "expected a whole number, found text",
        ),
        (
            "default: 5",
            "default: 5.5",
            9,
            "expected text, a whole number",
        ),
        (
            "default: 5",
            "default: 99999999999999999999",
            9,
            "expected text, a whole number",
        ),
        (
            "default: ext4",
            "default: ext5",
            10,
            "`ext5` is not one of its values",
        ),
        (
            "how large, default: 5",
            "how large, values: [a]",
            9,
            "only text and lists",
        ),
        ("default: []", "default: {a: b}", 11, "found map"),
        (
            "apiVersion",
            "---\na: b\n---\napiVersion",
            4,
            "a second document",
        ),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let error = parse(&SMALL.replacen(from, to, 1)).unwrap_err();
        let all = std::iter::once(&error).chain(error.others());
        let said: Vec<String> = all
            .map(|error| {
                let line = error.snippet().map(|snippet| snippet.line_column().0);
                format!("{}: {error}", line.unwrap_or_default())
            })
            .collect();
        let hit = said
            .iter()
            .any(|text| text.contains(expected) && text.starts_with(&format!("{line}: ")));
        assert!(hit, "{to}: {said:#?}");
    }
}

#[test]
fn a_hostile_label_is_refused() {
    let label = parse(SMALL).unwrap().to_label().unwrap();
    for (from, to) in [
        ("\"undo\":false", "\"undo\":false,\"more\":1"),
        ("\"disk\"", "\"disk/../x\""),
        ("\"after-host\"", "\"some-day\""),
        ("\"timeoutSeconds\":60", "\"timeoutSeconds\":65000"),
        ("\"phases\":[\"after-host\"]", "\"phases\":[]"),
        ("chasi.dev/v1", "chasi.dev/v2"),
    ] {
        assert!(label.contains(from), "{from}");
        let error = Manifest::from_label("disk", &label.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{to}");
    }
    assert!(Manifest::from_label("other", &label).is_err());
    assert!(Manifest::from_label("disk", &"[".repeat(100_000)).is_err());
}

fn image(texts: &[&str]) -> BTreeMap<PluginName, Manifest> {
    let manifests = texts.iter().map(|text| parse(text).unwrap());
    manifests.map(|one| (one.name.clone(), one)).collect()
}

fn cluster(plugins: &str) -> Result<Clusterfile> {
    let text = format!(
        "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata: {{name: a}}\nspec:\n  image: x\n  hosts:\n  \
         - {{name: m1, address: 192.0.2.1, roles: [control-plane]}}\n  \
         - {{name: w1, address: 192.0.2.2, roles: [worker]}}\n{plugins}"
    );
    Clusterfile::parse("Clusterfile", &text, None)
}

fn selected(plugins: &str, host: &str) -> Result<Vec<(String, String)>> {
    let on = SMALL
        .replace("name: disk", "name: always\ndefault: on")
        .replace("description: where", "description: where, default: /a")
        .replace("undo: false", "undo: true\nroles: [worker]");
    let first = SMALL.replace("name: disk", "name: zebra");
    let image = image(&[SMALL, &on, &first]);
    let cluster = cluster(plugins)?.cluster;
    let host = cluster.hosts.get(host).unwrap();
    Ok(select(&image, &cluster, host)?
        .into_iter()
        .map(|one| {
            let mount: SettingName = "mount".parse().unwrap();
            (
                one.manifest.name.to_string(),
                one.settings[&mount].variable(),
            )
        })
        .collect())
}

#[test]
fn those_that_are_on_come_first_and_the_others_in_the_order_of_the_clusterfile() {
    let plugins = "  plugins:\n  - {name: zebra, settings: {mount: /z}}\n  \
                   - {name: disk, hosts: [w1], settings: {mount: /w}}\n  \
                   - {name: disk, hosts: [m1], settings: {mount: /m}}\n";
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        selected(plugins, "w1").unwrap(),
        [
            pair("always", "/a"),
            pair("zebra", "/z"),
            pair("disk", "/w")
        ]
    );
    assert_eq!(
        selected(plugins, "m1").unwrap(),
        [pair("zebra", "/z"), pair("disk", "/m")]
    );
    assert_eq!(selected("", "w1").unwrap(), [pair("always", "/a")]);
    let off = "  plugins:\n  - {name: always, enabled: false}\n";
    assert_eq!(selected(off, "w1").unwrap(), []);
}

const LICENSE: &str = "apiVersion: chasi.dev/v1
kind: Plugin
name: license
description: puts a licence in its place
phases: [after-host]
undo: false
settings:
  key: {type: secret, description: which}
  seats: {type: integer, description: how many, default: 5}
";

#[test]
fn a_secret_comes_from_a_file_or_a_variable_and_is_in_no_error() {
    let chosen = |settings: &str| {
        let plugins = format!("  plugins:\n  - {{name: license, settings: {{{settings}}}}}\n");
        let cluster = cluster(&plugins)?.cluster;
        let image = image(&[LICENSE]);
        let host = cluster.hosts.get("m1").unwrap();
        let selected = select(&image, &cluster, host)?;
        assert_eq!(selected[0].settings.len(), 1);
        Ok(format!(
            "{:?}",
            selected[0].secrets.values().next().unwrap()
        ))
    };
    let told = |settings| {
        let error: Error = chosen(settings).unwrap_err();
        format!("{error} {:?} {:?}", error.hints(), error.snippet())
    };
    let from: Result<String> = chosen("key: {env: SITE_KEY}");
    assert!(from.unwrap().contains("SITE_KEY"));
    assert!(
        chosen("key: {file: /run/key}")
            .unwrap()
            .contains("\"/run/key\"")
    );
    let clear = told("key: s3cret");
    assert!(clear.contains("write `key: {file: PATH}`"), "{clear}");
    assert!(!clear.contains("s3cret"), "{clear}");
    for (settings, expected) in [
        ("key: {file: /a, env: B}", "from a file or from a variable"),
        ("key: {}", "from a file or from a variable"),
        ("key: {path: /a}", "unknown field `path`"),
        ("seats: {file: /a}, key: {file: /a}", "found a secret"),
        ("seats: 2", "needs the setting `key`"),
    ] {
        let error = told(settings);
        assert!(error.contains(expected), "{settings}: {error}");
    }
}

#[test]
fn a_secret_has_no_default_and_is_for_phases_that_last() {
    for (from, to, expected) in [
        (
            "description: which",
            "description: which, default: a",
            "no default",
        ),
        (
            "after-host",
            "before-drain",
            "none of these phases is told one",
        ),
    ] {
        let error = parse(&LICENSE.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn what_the_image_does_not_know_is_pointed_to_with_a_remedy() {
    for (plugins, expected, hint) in [
        (
            "{name: dsik}",
            "has no plugin `dsik`",
            "did you mean `disk`?",
        ),
        (
            "{name: vpn}",
            "has no plugin `vpn`",
            "it has `always`, `disk`, `zebra`",
        ),
        (
            "{name: disk}",
            "needs the setting `mount`",
            "write it below `settings`: where (text)",
        ),
        (
            "{name: disk, settings: {mont: /x}}",
            "no setting `mont`",
            "did you mean `mount`?",
        ),
        (
            "{name: disk, settings: {mount: 7}}",
            "`mount`: expected text",
            "put it in quotes: \"7\"",
        ),
        (
            "{name: disk, settings: {mount: /x, kind: xsf}}",
            "`xsf` is not one",
            "did you mean `xfs`?",
        ),
        (
            "{name: disk, settings: {mount: /x, options: a}}",
            "expected a list",
            "write `[a]`",
        ),
        (
            "{name: disk, settings: {mount: \"a\\nb\"}}",
            "expected a line",
            "",
        ),
        (
            "{name: disk, hosts: [w2]}",
            "there is no host `w2`",
            "did you mean `w1`?",
        ),
        (
            "{name: disk, host: [w1]}",
            "unknown field `host`",
            "did you mean `hosts`?",
        ),
        (
            "{name: disk, enabled: yes}",
            "expected `true` or `false`",
            "write `true`",
        ),
        (
            "{name: disk}\n  - {name: disk, hosts: [w1]}",
            "named twice for host `w1`",
            "name a plugin once, or give each entry other `hosts`",
        ),
    ] {
        let error = selected(&format!("  plugins:\n  - {plugins}\n"), "m1").unwrap_err();
        assert!(error.message().contains(expected), "{plugins}: {error}");
        assert_eq!(
            error.hints().first().map_or("", String::as_str),
            hint,
            "{plugins}"
        );
        assert!(error.snippet().unwrap().line_column().0 >= 10, "{plugins}");
    }
}
