//! The container runtime and kubelet, as far as the distribution needs them:
//! containerd, spoken to with its own `ctr`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};

/// Where containerd looks up registries; the host's own registry serves all.
const HOSTS: &str = "/etc/containerd/certs.d";

/// kubelet leaves images with this label alone when it collects garbage
/// (containerd's `internal/cri/labels`, `PinnedImageLabelKey`).
const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// How long kubelet may take to say that it is healthy.
const ANSWER: Duration = Duration::from_secs(3);

/// This host's platform in OCI's words.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        _ => "linux/amd64",
    }
}

fn ctr(tree: &Path) -> Command {
    Command::new(tree.join("usr/local/bin/ctr")).args(["--namespace", "k8s.io"])
}

/// Whether kubelet runs.
pub fn kubelet_active() -> bool {
    Command::new("systemctl")
        .args(["is-active", "--quiet", "kubelet.service"])
        .output()
        .is_ok_and(|output| output.code == Some(0))
}

/// Whether kubelet runs and calls itself healthy, where its configuration lets it be
/// asked.
pub async fn kubelet_is_healthy(root: &Path) -> Result<()> {
    let problem = || "kubelet cannot be asked whether it is healthy";
    if !kubelet_active() {
        return Err(Error::new(Kind::Failed, "kubelet does not run"));
    }
    let path = root.join("etc/kubernetes/kubelet-config.yaml");
    let text = std::fs::read_to_string(&path)
        .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
    let config: Health = serde_saphyr::from_str(&text).or_err(Kind::Failed, problem)?;
    if config.port == 0 {
        return Ok(());
    }
    let url = format!(
        "http://{}/healthz",
        SocketAddr::new(config.address, config.port)
    );
    let client = reqwest::Client::builder()
        .timeout(ANSWER)
        // There is no TLS, and a host need not have any authorities.
        .tls_certs_only([])
        .no_proxy()
        .build()
        .or_err(Kind::Failed, problem)?;
    let asked = client.get(url).send().await;
    let answer = asked.and_then(reqwest::Response::error_for_status);
    answer.map(drop).or_err(Kind::Failed, problem)
}

/// What of kubelet's configuration says where it answers
/// (`KubeletConfiguration` v1beta1; port 0 switches it off).
#[derive(serde::Deserialize)]
struct Health {
    #[serde(rename = "healthzBindAddress")]
    address: IpAddr,
    #[serde(rename = "healthzPort")]
    port: u16,
}

/// References of all images in the runtime.
pub fn images(tree: &Path) -> Result<Vec<String>> {
    let output = ctr(tree).args(["images", "ls", "--quiet"]).run()?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.starts_with("sha256:"))
        .map(str::to_owned)
        .collect())
}

/// What makes `ctr images pull` leave out the manifests of other platforms: the
/// host's registry holds what this platform needs of a reference that has several,
/// and nothing of the others. containerd 1.6 does so unasked and does not know the
/// option.
fn only_own_platform(tree: &Path) -> Result<Option<&'static str>> {
    const OPTION: &str = "--skip-metadata";
    let help = ctr(tree).args(["images", "pull", "--help"]).run()?.stdout;
    Ok(String::from_utf8_lossy(&help)
        .contains(OPTION)
        .then_some(OPTION))
}

/// Brings images from the host's own registry into the runtime and pins them.
/// Two at a time: unpacking is bound by one core each.
pub fn pull(context: &Context, tree: &Path, references: &[String]) -> Result<()> {
    let own_platform = only_own_platform(tree)?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = std::sync::atomic::AtomicUsize::new(0);
    let tell = |done: usize| {
        context.emit(Event::Counted {
            host: None,
            item: "container images".into(),
            done: done as u64,
            total: references.len() as u64,
        });
    };
    tell(0);
    let pull_next = || -> Result<()> {
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(reference) = references.get(index) else {
                return Ok(());
            };
            ctr(tree)
                .args(["images", "pull", "--platform", platform()])
                .args(own_platform)
                .args(["--hosts-dir", HOSTS, "--label", PINNED, reference])
                .told(context)
                .run()?;
            tell(1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    };
    std::thread::scope(|scope| {
        let second = scope.spawn(pull_next);
        let first = pull_next();
        let second = second.join().unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Failed,
                "pulling an image ended unexpectedly",
            ))
        });
        first.and(second)
    })
}
