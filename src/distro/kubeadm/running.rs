//! Whether the control plane that runs on a host is the one that its manifests
//! describe, and answers.
//!
//! Kubelet is not asked: after the API server beside it has changed, it takes up to
//! half a minute until it sees the pods in the API again that it runs itself. A
//! process says by its environment which manifest it was started from, and its own
//! probe, as the manifest has it, says whether it is ready.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use serde_json::Value;

use super::static_pods::{COMPONENTS, MARK};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// What the process of the API server is called.
const API_SERVER: &str = "kube-apiserver";
/// How long it may take to end its requests: longer than kubelet gives it.
const GRACE: Duration = Duration::from_secs(35);
/// How often it is looked whether it has ended.
const BEAT: Duration = Duration::from_millis(100);
/// How long a component may take to say that it is ready.
const ANSWER: Duration = Duration::from_secs(5);
/// More than any process's environment that is looked at.
const MOST: u64 = 1 << 20;

/// A component, as its manifest describes it.
struct Component {
    name: &'static str,
    /// The digest of its manifest; none of one that somebody else wrote.
    mark: Option<String>,
    /// Where it says that it is ready; none when its manifest does not say.
    probe: Option<String>,
}

/// Fails as long as a static pod of the control plane runs from an earlier manifest,
/// does not run, or does not call itself ready. What has no manifest need not run.
pub async fn check(root: &Path) -> Result<()> {
    for component in components(root)? {
        let name = component.name;
        if let Some(mark) = &component.mark
            && !runs_with(mark)
        {
            let what = format!("`{name}` has not been started from its manifest yet");
            return Err(Error::new(Kind::Failed, what));
        }
        let Some(probe) = &component.probe else {
            continue;
        };
        ask(probe).await.or_err(Kind::Failed, || {
            format!("`{name}` does not call itself ready")
        })?;
    }
    Ok(())
}

/// Stops the API server of this host, and lets it end its requests. To be called right
/// before etcd's manifest changes: kubelet deletes the old pod from the API before it
/// starts the new one, and waits for an API server that waits for etcd, half a minute,
/// until it is killed (github.com/kubernetes/kubernetes/issues/139502). Of one that is
/// not there it knows at once. Kubelet starts it again in any case.
pub fn stop_api_server(context: &Context) -> Result<()> {
    stop(context, API_SERVER)
}

/// Stops a component of the control plane of this host, and lets it come to its end.
/// Kubelet starts it again.
pub fn stop(context: &Context, name: &str) -> Result<()> {
    let Some(process) = find(name) else {
        return Ok(());
    };
    match rustix::process::kill_process(process, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            return Err(error).or_err(Kind::System, || {
                format!("cannot stop `{name}` of this host")
            });
        }
    }
    let end = Instant::now() + GRACE;
    while find(name) == Some(process) {
        if Instant::now() >= end {
            context.note(format!(
                "`{name}` of this host takes its time to end; kubelet kills it"
            ));
            return Ok(());
        }
        std::thread::sleep(BEAT);
    }
    Ok(())
}

/// The process with a name, of which the kernel keeps 15 characters.
fn find(wanted: &str) -> Option<Pid> {
    let wanted = wanted.get(..15).unwrap_or(wanted);
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        (name.trim_end() == wanted).then(|| Pid::from_raw(number))?
    })
}

/// Asks a probe. It is this host's own, and says nothing that is believed but that
/// it is there: its certificate is not looked at, as kubelet does not either.
async fn ask(url: &str) -> std::result::Result<(), reqwest::Error> {
    let client = reqwest::Client::builder()
        .timeout(ANSWER)
        .danger_accept_invalid_certs(true)
        .no_proxy()
        .build()?;
    client.get(url).send().await?.error_for_status().map(drop)
}

/// Whether a process was started from the manifest with this mark.
fn runs_with(mark: &str) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    let variable = format!("{MARK}={mark}");
    entries.flatten().any(|entry| {
        let mut environment = Vec::new();
        let read = fs::File::open(entry.path().join("environ")).and_then(|file| {
            std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST), &mut environment)
        });
        read.is_ok()
            && environment
                .split(|byte| *byte == 0)
                .any(|one| one == variable.as_bytes())
    })
}

fn components(root: &Path) -> Result<Vec<Component>> {
    let mut found = Vec::new();
    for name in COMPONENTS {
        let path = root.join(format!("etc/kubernetes/manifests/{name}.yaml"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error)
                    .or_err(Kind::System, || format!("cannot read `{}`", path.display()));
            }
        };
        found.push(component(name, &text).or_err(Kind::Failed, || {
            format!("`{}` is no static pod", path.display())
        })?);
    }
    Ok(found)
}

/// What of a static pod's container is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    ports: Vec<Port>,
    readiness_probe: Option<Probe>,
    liveness_probe: Option<Probe>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    container_port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    http_get: Option<HttpGet>,
}

#[derive(Deserialize)]
struct HttpGet {
    host: Option<IpAddr>,
    path: Option<String>,
    port: Value,
    scheme: Option<String>,
}

fn component(name: &'static str, manifest: &str) -> Result<Component> {
    let pod: Value = serde_saphyr::from_str(manifest).or_err(Kind::Input, || "it is not YAML")?;
    let container = pod["spec"]["containers"][0].clone();
    let container: Container = serde_json::from_value(container)
        .or_err(Kind::Input, || "its container is not as expected")?;
    let mark = container.env.iter().find(|one| one.name == MARK);
    let probe = container
        .readiness_probe
        .as_ref()
        .or(container.liveness_probe.as_ref());
    let get = probe.and_then(|probe| probe.http_get.as_ref());
    Ok(Component {
        name,
        mark: mark.and_then(|one| one.value.clone()),
        probe: get.and_then(|get| url(get, &container.ports)),
    })
}

fn url(get: &HttpGet, ports: &[Port]) -> Option<String> {
    let port = match &get.port {
        Value::String(name) => {
            ports
                .iter()
                .find(|port| port.name.as_ref() == Some(name))?
                .container_port
        }
        number => u16::try_from(number.as_u64()?).ok()?,
    };
    let host = get.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = get.path.as_deref().unwrap_or("/");
    Some(format!("{scheme}://{}{path}", SocketAddr::new(host, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETCD: &str = "\
apiVersion: v1
kind: Pod
spec:
  containers:
  - env:
    - name: CHASI_MANIFEST
      value: abc
    command:
    - etcd
    ports:
    - containerPort: 2381
      name: probe-port
    livenessProbe:
      httpGet: {host: 127.0.0.1, path: /livez, port: probe-port, scheme: HTTP}
    readinessProbe:
      httpGet: {host: 127.0.0.1, path: /readyz, port: probe-port, scheme: HTTP}
";

    #[test]
    fn the_mark_and_the_probe_are_those_of_the_manifest() {
        let etcd = component("etcd", ETCD).unwrap();
        assert_eq!(etcd.mark.as_deref(), Some("abc"));
        assert_eq!(etcd.probe.as_deref(), Some("http://127.0.0.1:2381/readyz"));
        let scheduler = "spec:\n  containers:\n  - livenessProbe:\n      httpGet:\n        path: /livez\n        port: 10259\n        scheme: HTTPS\n";
        let scheduler = component("kube-scheduler", scheduler).unwrap();
        assert_eq!(scheduler.mark, None);
        assert_eq!(
            scheduler.probe.as_deref(),
            Some("https://127.0.0.1:10259/livez")
        );
        let unnamed = component("etcd", &ETCD.replace("name: probe-port", "name: other")).unwrap();
        assert_eq!(unnamed.probe, None);
        for text in [
            "",
            "spec: {containers: [{env: 1}]}",
            "{",
            "spec: {containers: []}",
        ] {
            assert!(component("etcd", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_process_is_found_by_its_environment() {
        let mark = format!("test-{}", std::process::id());
        assert!(!runs_with(&mark));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(MARK, &mark)
            .spawn()
            .unwrap();
        let found = runs_with(&mark);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }

    #[test]
    fn where_there_are_no_manifests_nothing_need_run() {
        let root = tempfile::tempdir().unwrap();
        assert!(components(root.path()).unwrap().is_empty());
    }
}
