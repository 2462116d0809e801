//! Plugins as they run: real executables, out of a generation, on a host in a
//! directory. First what the agent makes of any plugin, then those that chasi ships,
//! with stand-ins for the programs that would reach the machine.

#[path = "support/host.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use chasi::digest::Digest;
use chasi::error::{Error, Kind, Result};
use chasi::event::{Context, Event, Sink};
use chasi::host::hook::{self, Hook, Peer, Port, Reply, Secret, Secrets, Subject, Surroundings};
use chasi::host::journal::{self, Journal};
use chasi::host::leave;
use chasi::spec::plugin::{Manifest, Phase, SettingValue};
use support::{Entry, Host, file, program};

const MANIFEST: &str = "apiVersion: chasi.dev/v1\nkind: Plugin\nname: mark\n\
    description: marks\nphases: [before-host, after-host, after-join, before-drain]\n\
    undo: true\ntimeoutSeconds: 2\nsettings:\n  \
    word: {type: text, default: a, description: what}\n";

/// Marks its phase in a file; `extra` runs first.
fn marking(extra: &str) -> String {
    format!(
        "#!/bin/sh\nset -eu\n{extra}\nmark=$CHASI_ROOT/etc/mark-$CHASI_PHASE\n\
         [ $CHASI_VERB = check ] || echo $CHASI_VERB $CHASI_PHASE >>$CHASI_ROOT/log\n\
         say() {{ printf '{{\"changed\":%s,\"message\":\"%s\"}}' $1 $2; }}\n\
         case $CHASI_VERB in\n\
         check) if [ \"$(cat $mark)\" = \"$CHASI_SETTING_WORD\" ]; then say false right; else say true wrong; fi ;;\n\
         apply) echo \"$CHASI_SETTING_WORD\" >$mark; say true marked ;;\n\
         undo) rm -f $mark; say true gone ;;\nesac\n"
    )
}

/// A host with one generation that has a plugin.
struct Site {
    _directory: tempfile::TempDir,
    host: Host,
    identity: Digest,
    manifest: Manifest,
}

impl Site {
    fn new(manifest: &str, script: &str) -> Site {
        // Not in memory: that may not be a place to run programs from.
        let directory = tempfile::tempdir().unwrap();
        let host = Host::at(&directory.path().join("host"));
        fs::create_dir_all(host.files.join("etc")).unwrap();
        let manifest_of = Manifest::parse("plugin.yaml", manifest).unwrap();
        let base = format!("chasi/hooks/{}", manifest_of.name);
        let (yaml, run) = (format!("{base}/plugin.yaml"), format!("{base}/run"));
        let entries: [(&str, Entry); 2] = [(&yaml, file(manifest)), (&run, program(script))];
        let recipe = host.recipe(&[&entries]);
        host.become_(&recipe);
        Site {
            identity: recipe.identity().unwrap(),
            _directory: directory,
            host,
            manifest: manifest_of,
        }
    }

    /// One of those that chasi ships.
    fn shipped(name: &str) -> Site {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("plugins")
            .join(name);
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        Site::new(&read("plugin.yaml"), &read("run"))
    }

    fn hook(&self, phase: Phase, settings: &[(&str, SettingValue)]) -> Hook {
        let defaults = self.manifest.settings.iter();
        let mut all: BTreeMap<_, _> = defaults
            .filter_map(|(name, setting)| Some((name.clone(), setting.default.clone()?)))
            .collect();
        for (name, value) in settings {
            all.insert(name.parse().unwrap(), value.clone());
        }
        let peer = |name: &str, role: &str, address: &str| Peer {
            name: name.into(),
            role: role.into(),
            addresses: vec![address.parse().unwrap()],
        };
        let port = |protocol: &str, number: u16, from: &[&str]| Port {
            protocol: protocol.into(),
            first: number,
            last: number,
            from: from.iter().map(|from| (*from).to_owned()).collect(),
            what: "x".into(),
        };
        Hook {
            plugin: self.manifest.clone(),
            phase,
            settings: all,
            host: Subject {
                name: "w1".into(),
                role: "worker".into(),
                addresses: vec!["10.0.0.21".parse().unwrap()],
                ssh_port: 2222,
                ports: vec![
                    port("tcp", 10250, &["control-planes"]),
                    port("udp", 8472, &["nodes"]),
                    port("tcp", 10248, &[]),
                ],
            },
            cluster: Surroundings {
                name: "shop".into(),
                version: "1.34.4".into(),
                pod_cidrs: vec!["10.244.0.0/16".into(), "fd00:10:244::/56".into()],
                service_cidrs: vec!["10.96.0.0/16".into()],
                nodes: vec![
                    peer("m1", "control-plane", "10.0.0.11"),
                    peer("w1", "worker", "10.0.0.21"),
                ],
            },
        }
    }

    fn due(&self, hook: &Hook) -> Option<String> {
        self.due_with(hook, &Secrets::new())
    }

    fn due_with(&self, hook: &Hook, secrets: &Secrets) -> Option<String> {
        let (root, context) = (&self.host.root, Context::silent());
        hook::due(root, &self.identity, hook, secrets, &context).unwrap()
    }

    fn apply(&self, hook: &Hook) -> Result<Reply> {
        self.apply_with(hook, &Secrets::new(), &Context::silent())
    }

    fn apply_with(&self, hook: &Hook, secrets: &Secrets, context: &Context) -> Result<Reply> {
        let (root, journal) = (&self.host.root, self.journal());
        hook::apply(root, &journal, &self.identity, (hook, secrets), context)
    }

    fn undo(&self, phase: Phase) -> Result<Option<String>> {
        self.undo_or_leave(phase, false)
    }

    fn undo_or_leave(&self, phase: Phase, leave: bool) -> Result<Option<String>> {
        let (root, journal) = (&self.host.root, self.journal());
        let which = (&self.manifest.name, phase);
        hook::undo(root, &journal, which, leave, &Context::silent())
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.host.root, "test").unwrap()
    }

    /// A stand-in for a program.
    fn program(&self, name: &str, script: &str) {
        let path = format!("usr/local/bin/{name}");
        self.host.write(&path, &format!("#!/bin/sh\n{script}\n"));
        self.host.mode(&path, 0o755);
    }

    /// One for `systemctl`, which remembers what is enabled and what runs.
    fn systemctl(&self) {
        let state = self.host.files.join("run/units");
        fs::create_dir_all(&state).unwrap();
        self.program(
            "systemctl",
            &format!(
                "cd {}; if [ \"$1\" = --quiet ]; then shift; exec >/dev/null; fi; verb=$1; [ $# -lt 2 ] || shift\n\
                 case $verb in\n\
                 is-enabled) [ -e $1.enabled ] && echo enabled || {{ echo disabled; exit 1; }} ;;\n\
                 is-active) [ -e $1.active ] && echo active || {{ echo inactive; exit 3; }} ;;\n\
                 enable) touch $1.enabled ;; disable) rm -f $1.enabled ;;\n\
                 show) [ ! -e $2.kept ] || printf 'ConditionResult=no\nConditionTimestampMonotonic=5\n' ;;\n\
                 restart|start) [ -e $1.kept ] || touch $1.active ;; stop) rm -f $1.active ;; esac",
                state.display()
            ),
        );
    }
}

fn text(text: &str) -> SettingValue {
    SettingValue::Text(text.into())
}

fn list(items: &[&str]) -> SettingValue {
    SettingValue::List(items.iter().map(|item| (*item).to_owned()).collect())
}

fn say(error: &Error) -> String {
    let causes: Vec<_> = error.causes().map(ToString::to_string).collect();
    format!("{error}: {}", causes.join(": "))
}

#[test]
fn it_is_due_until_it_ran_and_again_when_something_is_no_longer_right() {
    let site = Site::new(MANIFEST, &marking(""));
    let before = site.host.live();
    let hook = site.hook(Phase::AfterHost, &[]);
    assert_eq!(site.due(&hook).unwrap(), "it has not run here yet");
    assert!(site.apply(&hook).unwrap().changed);
    assert_eq!(site.due(&hook), None);
    let changed = site.hook(Phase::AfterHost, &[("word", text("b"))]);
    assert_eq!(site.due(&changed).unwrap(), "its settings are others");
    site.host.write("etc/mark-after-host", "x");
    assert_eq!(site.due(&hook).unwrap(), "wrong");
    site.apply(&changed).unwrap();
    assert_eq!(site.due(&changed), None);
    assert_eq!(site.host.read("etc/mark-after-host"), "b\n");
    assert_eq!(journal::pending(&site.host.root).unwrap(), []);

    assert_eq!(site.undo(Phase::AfterHost).unwrap(), None);
    fs::remove_file(site.host.files.join("log")).unwrap();
    site.host.live().assert_same(&before, "it is undone");
    assert!(hook::applied(&site.host.root).unwrap().is_empty());
    assert!(!site.host.root.state("hooks/mark").exists());
}

#[test]
fn leaving_undoes_the_last_first_and_a_moment_only_runs_when_it_comes() {
    let site = Site::new(MANIFEST, &marking(""));
    for phase in [
        Phase::BeforeHost,
        Phase::AfterHost,
        Phase::BeforeDrain,
        Phase::AfterJoin,
    ] {
        site.apply(&site.hook(phase, &[])).unwrap();
    }
    assert_eq!(site.due(&site.hook(Phase::BeforeDrain, &[])), None);
    let (root, journal) = (&site.host.root, site.journal());
    hook::moment(root, &journal, Phase::BeforeDrain, &Context::silent()).unwrap();
    hook::moment(root, &journal, Phase::AfterDrain, &Context::silent()).unwrap();
    leave::leave(root, &journal, &Context::silent()).unwrap();
    assert_eq!(
        site.host.read("log"),
        "apply before-host\napply after-host\napply after-join\napply before-drain\n\
         undo after-join\nundo after-host\nundo before-host\n"
    );
}

#[test]
fn what_has_no_way_back_is_told_and_what_is_forgotten_stays() {
    let manifest = MANIFEST.replace("undo: true", "undo: false");
    let site = Site::new(&manifest, &marking(""));
    site.apply(&site.hook(Phase::AfterHost, &[])).unwrap();
    let note = site.undo(Phase::AfterHost).unwrap().unwrap();
    assert!(note.contains("`mark` did stays"), "{note}");
    assert_eq!(site.host.read("etc/mark-after-host"), "a\n");
    site.apply(&site.hook(Phase::AfterHost, &[])).unwrap();
    assert!(hook::forget(&site.host.root, &site.manifest.name).unwrap());
    assert!(!hook::forget(&site.host.root, &site.manifest.name).unwrap());
    assert_eq!(site.undo(Phase::AfterHost).unwrap(), None);

    // One that knows the way back need not go it.
    let site = Site::new(MANIFEST, &marking(""));
    site.apply(&site.hook(Phase::AfterHost, &[])).unwrap();
    let note = site.undo_or_leave(Phase::AfterHost, true).unwrap().unwrap();
    assert!(note.contains("`mark` did stays, as was asked"), "{note}");
    assert_eq!(site.host.read("etc/mark-after-host"), "a\n");
    assert_eq!(hook::applied(&site.host.root).unwrap(), []);
}

#[test]
fn a_plugin_that_fails_is_told_and_stays_to_be_undone() {
    for (script, expected) in [
        ("echo no luck >&2; exit 3", "it exited with 3: no luck"),
        (
            "echo '{\"changed\":false,\"message\":\"no disk\"}'; exit 1",
            "after-host: no disk",
        ),
        ("kill -SEGV $$", "signal 11 ended it"),
        ("sleep 60", "it was ended after 2 s, the `timeoutSeconds`"),
        ("echo done; exit 0", "its answer is not what a plugin says"),
        ("exit 0", "its answer is not what a plugin says"),
        (
            "echo '{\"changed\":true,\"more\":1}'; exit 0",
            "unknown field `more`",
        ),
        (
            "echo '{\"changed\":true}{}'; exit 0",
            "not what a plugin says",
        ),
        (
            "echo '{\"changed\":\"yes\"}'; exit 0",
            "not what a plugin says",
        ),
        (
            "printf '{\"changed\":true,\"message\":\"a\\\\nb\"}'; exit 0",
            "not a line",
        ),
        (
            "printf '{\"changed\":true,\"message\":\"%02000d\"}' 1; exit 0",
            "not a line",
        ),
        ("printf '%0100000d' 1; exit 0", "longer than 65536 bytes"),
    ] {
        let site = Site::new(
            MANIFEST,
            &marking(&format!("if [ $CHASI_VERB = apply ]; then {script}; fi")),
        );
        let hook = site.hook(Phase::AfterHost, &[]);
        let error = site.apply(&hook).unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(say(&error).contains(expected), "{script}: {}", say(&error));
        assert!(
            error
                .message()
                .starts_with("the plugin `mark` failed to apply at after-host: ")
        );
        assert!(error.hints()[0].contains("without `mark`"));
        assert_eq!(site.due(&hook).unwrap(), "it has not run here yet");
        assert_eq!(journal::pending(&site.host.root).unwrap(), []);
        // It may have changed something.
        assert_eq!(hook::applied(&site.host.root).unwrap().len(), 1);
        site.undo(Phase::AfterHost).unwrap();
        assert_eq!(site.host.read("log"), "undo after-host\n", "{script}");
    }
}

#[test]
fn what_is_not_what_the_image_brought_is_not_run() {
    let site = Site::new(MANIFEST, &marking(""));
    let hook = site.hook(Phase::AfterHost, &[]);
    let run = site.host.root.state("node/chasi/hooks/mark/run");
    fs::write(&run, "#!/bin/sh\necho mine >$CHASI_ROOT/log\n").unwrap();
    let error = site.apply(&hook).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{}", say(&error));
    assert!(!site.host.files.join("log").exists());

    let site = Site::new(MANIFEST, &marking(""));
    let mut other = site.hook(Phase::AfterHost, &[]);
    other.plugin.timeout_seconds = 9;
    assert_eq!(site.apply(&other).unwrap_err().kind(), Kind::Integrity);
}

#[test]
fn it_is_told_everything_on_its_input_and_in_its_environment() {
    let site = Site::new(
        MANIFEST,
        &marking("cat >$CHASI_STATE/input; env >$CHASI_STATE/env"),
    );
    site.apply(&site.hook(Phase::AfterHost, &[("word", text("a b"))]))
        .unwrap();
    let own = site.host.root.state("hooks/mark");
    let input: serde_json::Value =
        serde_json::from_slice(&fs::read(own.join("input")).unwrap()).unwrap();
    assert_eq!(input["verb"], "apply");
    assert_eq!(input["settings"]["word"], "a b");
    assert_eq!(input["host"]["ports"][0]["first"], 10250);
    assert_eq!(input["cluster"]["nodes"][0]["addresses"][0], "10.0.0.11");
    assert!(input["facts"]["memory"].is_u64());
    let env = fs::read_to_string(own.join("env")).unwrap();
    for expected in [
        "CHASI_SETTING_WORD=a b\n",
        "CHASI_NODES=10.0.0.11\n10.0.0.21\n",
        "CHASI_CONTROL_PLANES=10.0.0.11\n",
        "CHASI_PORTS=tcp 10250 10250 control-planes\nudp 8472 8472 nodes\ntcp 10248 10248 -\n",
    ] {
        assert!(env.contains(expected), "{env}");
    }
    assert!(!env.contains("CARGO"), "{env}");
}

/// Keeps what is told.
struct Heard(Mutex<std::sync::mpsc::Sender<String>>);

impl Sink for Heard {
    fn event(&self, event: Event) {
        let _ = self.0.lock().unwrap().send(format!("{event:?}"));
    }
}

#[test]
fn a_secret_is_on_its_input_and_nowhere_else() {
    let manifest = format!("{MANIFEST}  key: {{type: secret, description: which}}\n");
    let extra = "input=$(cat); env >$CHASI_ROOT/env\n\
        case $input in *'\"secrets\":{\"key\":\"s3cret'*) ;; *) [ $CHASI_VERB = undo ] || exit 9 ;; esac\n\
        echo \"$input\" >&2; [ ! -e $CHASI_ROOT/fail ] || exit 3";
    let site = Site::new(&manifest, &marking(extra));
    let secrets = |text: &str| Secrets::from([("key".parse().unwrap(), Secret::new(text))]);
    let hook = site.hook(Phase::AfterHost, &[]);
    let (sender, events) = std::sync::mpsc::channel();
    let context = Context::new(Arc::new(Heard(sender.into())));
    let error = {
        site.host.write("fail", "");
        let error = site.apply_with(&hook, &secrets("s3cret"), &context);
        fs::remove_file(site.host.files.join("fail")).unwrap();
        error.unwrap_err()
    };
    assert!(say(&error).contains("[secret]"), "{}", say(&error));
    site.apply_with(&hook, &secrets("s3cret"), &context)
        .unwrap();
    assert_eq!(site.due_with(&hook, &secrets("s3cret")), None);
    let why = site.due_with(&hook, &secrets("s3cret-2")).unwrap();
    assert_eq!(why, "a secret of it is another one");
    // Whatever is on the host and whatever was told.
    let mut texts = vec![say(&error), format!("{:?}", secrets("s3cret"))];
    texts.extend(events.try_iter());
    assert!(
        texts
            .iter()
            .any(|text| text.contains("plugin `mark` apply"))
    );
    for file in ["hooks/applied.json", "journal/test.jsonl"] {
        texts.push(fs::read_to_string(site.host.root.state(file)).unwrap());
    }
    texts.push(site.host.read("env"));
    for text in texts {
        assert!(!text.contains("s3cret"), "{text}");
    }
    site.undo(Phase::AfterHost).unwrap();
}

/// Applies a shipped plugin twice and undoes it; the host is what it was.
fn there_and_back(site: &Site, hook: &Hook, look: impl FnOnce(&Host)) {
    let before = site.host.live();
    let reply = site.apply(hook).map_err(|error| say(&error)).unwrap();
    assert!(reply.changed);
    look(&site.host);
    assert_eq!(site.due(hook), None);
    let applied = site.host.live();
    assert!(!site.apply(hook).unwrap().changed);
    site.host
        .live()
        .assert_same(&applied, "again changes nothing");
    site.undo(hook.phase).map_err(|error| say(&error)).unwrap();
    site.host.live().assert_same(&before, "it is undone");
}

#[test]
fn kernel_parameters_go_there_and_back() {
    let site = Site::shipped("sysctl");
    for (path, value) in [
        ("net/core/somaxconn", "128"),
        ("net/ipv4/tcp_keepalive_time", "7200"),
        ("vm/swappiness", "60"),
    ] {
        site.host
            .write(&format!("proc/sys/{path}"), &format!("{value}\n"));
    }
    site.host
        .write("etc/sysctl.d/95-x.conf", "vm/swappiness = 10\n");
    let hook = site.hook(
        Phase::AfterHost,
        &[("profiles", list(&["network", "database"]))],
    );
    there_and_back(&site, &hook, |host| {
        assert_eq!(host.read("proc/sys/net/core/somaxconn"), "32768\n");
        // Of two profiles the last, and another file's not at all.
        assert_eq!(host.read("proc/sys/net/ipv4/tcp_keepalive_time"), "300\n");
        assert_eq!(host.read("proc/sys/vm/swappiness"), "60\n");
    });
    site.apply(&hook).unwrap();
    site.host.write("proc/sys/net/core/somaxconn", "7\n");
    assert_eq!(site.due(&hook).unwrap(), "to be set: net.core.somaxconn");
    site.undo(Phase::AfterHost).unwrap();
    assert_eq!(
        site.host.read("proc/sys/net/core/somaxconn"),
        "7\n",
        "theirs"
    );
}

#[test]
fn the_time_zone_goes_there_and_back() {
    let site = Site::shipped("time-zone");
    site.host.write("usr/share/zoneinfo/Europe/Berlin", "TZif");
    site.host.write("etc/timezone", "Etc/UTC\n");
    site.host
        .link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC");
    let hook = |zone: &str| site.hook(Phase::AfterHost, &[("zone", text(zone))]);
    for zone in ["Europe/Berlni", "../../etc/passwd", "/etc/passwd", ""] {
        let error = say(&site.apply(&hook(zone)).unwrap_err());
        assert!(error.contains("zone"), "{error}");
    }
    there_and_back(&site, &hook("Europe/Berlin"), |host| {
        assert_eq!(host.read("etc/timezone"), "Europe/Berlin\n");
        let target = fs::read_link(host.files.join("etc/localtime")).unwrap();
        assert_eq!(target, Path::new("../usr/share/zoneinfo/Europe/Berlin"));
    });
}

#[test]
fn chrony_asks_the_given_servers_and_then_its_own_again() {
    let site = Site::shipped("time-sync");
    let hook = site.hook(
        Phase::BeforeHost,
        &[("servers", list(&["ntp.example.com", "192.0.2.40"]))],
    );
    site.systemctl();
    site.program("chronyd", "");
    site.host.write(
        "etc/chrony.conf",
        "# theirs\npool 2.pool.ntp.org iburst\n  server x\nmakestep 1 3\n",
    );
    there_and_back(&site, &hook, |host| {
        assert_eq!(
            host.read("etc/chrony.conf"),
            "# theirs\n#chasi# pool 2.pool.ntp.org iburst\n#chasi#   server x\nmakestep 1 3\n\
             # BEGIN chasi plugin time-sync\nserver ntp.example.com iburst\nserver 192.0.2.40 iburst\n\
             # END chasi plugin time-sync\n"
        );
        assert!(host.files.join("run/units/chronyd.service.active").exists());
    });
    let wrong = site.hook(Phase::BeforeHost, &[("servers", list(&["a b; rm -rf"]))]);
    assert!(say(&site.apply(&wrong).unwrap_err()).contains("neither a name nor an address"));
}

#[test]
fn timesyncd_that_a_container_does_not_start_is_told_and_left_at_that() {
    let site = Site::shipped("time-sync");
    let hook = site.hook(Phase::BeforeHost, &[("servers", list(&["192.0.2.40"]))]);
    site.systemctl();
    // Neither of the two is there: it fails, and there is nothing to undo.
    let error = say(&site.apply(&hook).unwrap_err());
    assert!(error.contains("neither chrony nor"), "{error}");
    site.undo(Phase::BeforeHost).unwrap();
    assert_eq!(hook::applied(&site.host.root).unwrap(), []);

    site.host.write("lib/systemd/systemd-timesyncd", "");
    let kept = "run/units/systemd-timesyncd.service.kept";
    site.host.write(kept, "");
    let reply = site.apply(&hook).unwrap();
    assert!(reply.notes[0].contains("does not start"), "{reply:?}");
    assert_eq!(site.due(&hook), None);
    let configuration = "etc/systemd/timesyncd.conf.d/50-chasi-plugin.conf";
    assert!(site.host.read(configuration).contains("NTP=192.0.2.40\n"));
    // Where nothing keeps it from starting, it is to run.
    fs::remove_file(site.host.files.join(kept)).unwrap();
    assert!(site.due(&hook).unwrap().contains("does not run"));
    assert_eq!(site.apply(&hook).unwrap().notes, [""; 0]);
    assert_eq!(site.due(&hook), None);
    site.undo(Phase::BeforeHost).unwrap();
    assert!(!site.host.files.join(configuration).exists());
}

#[test]
fn the_firewall_has_the_ports_of_the_role_and_goes_away_again() {
    let site = Site::shipped("firewall");
    site.systemctl();
    fs::create_dir_all(site.host.files.join("etc/systemd/system")).unwrap();
    let rules = site.host.files.join("etc/chasi-plugin-firewall.nft");
    // The table is there as long as its unit runs.
    let unit = site
        .host
        .files
        .join("run/units/chasi-plugin-firewall.service.active");
    site.program(
        "nft",
        &format!(
            "case $* in *list*) [ ! -e {} ] || cat {} ;; esac",
            unit.display(),
            rules.display()
        ),
    );
    let settings = [
        ("allow", list(&["tcp/8080"])),
        ("allow-from", list(&["192.0.2.0/24"])),
    ];
    there_and_back(&site, &site.hook(Phase::AfterHost, &settings), |host| {
        let rules = host.read("etc/chasi-plugin-firewall.nft");
        for line in [
            "tcp dport { 22,2222 } accept",
            "ip saddr { 10.244.0.0/16 } accept",
            "ip6 saddr { fd00:10:244::/56 } accept",
            "ip saddr { 10.0.0.11 } tcp dport 10250 accept",
            "ip saddr { 10.0.0.11,10.0.0.21 } udp dport 8472 accept",
            "tcp dport 8080 accept",
            "ip saddr { 192.0.2.0/24 } accept",
        ] {
            assert!(
                rules.lines().any(|one| one.trim() == line),
                "{line}: {rules}"
            );
        }
        assert!(!rules.contains("10248"), "{rules}");
    });
    for (setting, value) in [
        ("allow", "8080"),
        ("allow", "tcp/80; flush ruleset"),
        ("allow", "sctp/80"),
        ("allow-from", "everyone"),
    ] {
        let hook = site.hook(Phase::AfterHost, &[(setting, list(&[value]))]);
        let error = say(&site.apply(&hook).unwrap_err());
        assert!(error.contains("is not a"), "{error}");
    }
}

/// A disk that `lsblk` and the others know; each case changes one answer.
struct Disk {
    rows: &'static str,
    code: u8,
    signature: &'static str,
    mounted: &'static str,
    holder: bool,
    content: &'static str,
}

const EMPTY: Disk = Disk {
    rows: "sdz",
    code: 2,
    signature: "",
    mounted: "",
    holder: false,
    content: "/dev/zero",
};

#[test]
fn a_disk_with_anything_on_it_is_left_alone() {
    for (disk, expected) in [
        (
            Disk {
                rows: "sdz\\nsdz1",
                ..EMPTY
            },
            "it has partitions",
        ),
        (Disk { code: 0, ..EMPTY }, "blkid finds something on it"),
        (Disk { code: 8, ..EMPTY }, "blkid finds something on it"),
        (
            Disk {
                signature: "0x438,UUID,,ext4",
                ..EMPTY
            },
            "wipefs finds a signature on it",
        ),
        (
            Disk {
                mounted: "/data",
                ..EMPTY
            },
            "it is mounted or swap",
        ),
        (
            Disk {
                holder: true,
                ..EMPTY
            },
            "something holds it",
        ),
        (
            Disk {
                content: "/dev/urandom",
                ..EMPTY
            },
            "its first MiB is not empty",
        ),
        (
            Disk {
                content: "/dev/null",
                ..EMPTY
            },
            "its first MiB is not empty",
        ),
        (
            Disk {
                rows: "sdz",
                ..EMPTY
            },
            "cannot be partitioned",
        ),
    ] {
        let site = Site::shipped("data-disk");
        site.program(
            "lsblk",
            &format!(
                "case $* in *TYPE*SIZE*|*NAME,SIZE*) echo sdz 20000000000 disk ;; *TYPE*) echo disk ;; *RO*) echo 0 ;; \
                 *SIZE*) echo 20000000000 ;; *MOUNTPOINT*) echo '{}' ;; *NAME*) printf '{}\\n' ;; esac",
                disk.mounted, disk.rows
            ),
        );
        site.program("blkid", &format!("exit {}", disk.code));
        site.program(
            "wipefs",
            &format!(
                "echo '# DEVICE,OFFSET,TYPE'; printf '%s' '{}'",
                disk.signature
            ),
        );
        site.program("dd", &format!("exec head -c 1048576 {}", disk.content));
        site.program("findmnt", "exit 1");
        site.program("udevadm", "");
        let touched = site.host.files.join("touched");
        for name in ["sfdisk", "mkfs.ext4", "mount"] {
            site.program(
                name,
                &format!("echo {name} >>{}; exit 1", touched.display()),
            );
        }
        let holders = site.host.files.join("sys/class/block/sdz/holders");
        fs::create_dir_all(&holders).unwrap();
        if disk.holder {
            fs::write(holders.join("dm-0"), "").unwrap();
        }
        let hook = site.hook(
            Phase::BeforeHost,
            &[("mount", text("/chasi-no-such-place"))],
        );
        let error = say(&site.apply(&hook).unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
        // Only the one that is empty is touched.
        assert_eq!(
            touched.exists(),
            expected.contains("partitioned"),
            "{expected}"
        );
    }
}

#[test]
fn a_data_disk_goes_to_no_odd_place() {
    let site = Site::shipped("data-disk");
    for mount in ["/", "data", "/data/../etc", "/da ta", "/data/", ""] {
        let hook = site.hook(Phase::BeforeHost, &[("mount", text(mount))]);
        let error = say(&site.apply(&hook).unwrap_err());
        assert!(
            error.contains("is not a place") || error.contains("is not a path"),
            "{error}"
        );
    }
}
