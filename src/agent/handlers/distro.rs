//! Answers about the Kubernetes distribution of this host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::agent::Scope;
use crate::agent::calls::distro::*;
use crate::digest::Digest;
use crate::distro::kubeadm::credential::{self, Request, Signed};
use crate::distro::kubeadm::pki::{Authorities, Pki};
use crate::distro::kubeadm::{self, objects, running, runtime, server};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::host::{Root, generation, unit};
use crate::kube::{self, Connection, ObjectName};

/// How often a condition is looked at while waiting for it.
const BEAT: Duration = Duration::from_millis(250);

/// The root of the host's file system. The agent always runs on the host itself.
pub(super) fn root() -> &'static Path {
    Path::new("/")
}

/// The tree that the host's programs run from.
fn tree(scope: &Scope) -> PathBuf {
    scope.root().join("node")
}

/// The tree of a generation that is staged here.
fn staged(identity: &Digest) -> Result<PathBuf> {
    let root = Root::host()?;
    let number = generation::find(&root, identity)?.ok_or_else(|| {
        Error::new(
            Kind::Failed,
            format!("the generation {} has not been staged", identity.short()),
        )
        .hint("run the same command again")
    })?;
    Ok(generation::tree(&root, number))
}

fn record_path(state: &Path) -> PathBuf {
    state.join("cluster/objects.json")
}

/// What is recorded of the cluster's own objects.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    identity: Digest,
    objects: Vec<ObjectName>,
}

fn record(state: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(record_path(state)).ok()?).ok()
}

pub(super) async fn distro_state(scope: Scope, _: DistroState) -> Result<HostDistroState> {
    let (state, tree) = (scope.root().to_owned(), tree(&scope));
    super::blocking(move || {
        Ok(HostDistroState {
            pki: Pki::at(root()).identity(),
            server_names: server::names(root()),
            credential: credential::present(root()),
            member: credential::membership(root()),
            etcd_data: root().join("var/lib/etcd/member").is_dir(),
            kubelet_active: runtime::kubelet_active(),
            images: runtime::images(&tree).ok(),
            objects: record(&state).map(|record| record.identity),
            restoring: super::backup::restoring(&state),
        })
    })
    .await
}

pub(super) async fn make_pki(scope: Scope, call: MakePki) -> Result<()> {
    let (program, context) = (kubeadm::program(&tree(&scope)), scope.context.clone());
    super::blocking(move || {
        let authorities = call.authorities.as_ref();
        Pki::at(root()).make(&context, &program, &call.config, authorities)
    })
    .await
}

pub(super) async fn sign_server(_: Scope, call: SignServer) -> Result<()> {
    super::blocking(move || server::sign(root(), &call.names, call.hours)).await
}

pub(super) async fn read_authorities(_: Scope, _: ReadAuthorities) -> Result<Authorities> {
    super::blocking(|| Pki::at(root()).authorities()).await
}

pub(super) async fn request_credential(_: Scope, call: RequestCredential) -> Result<Request> {
    super::blocking(move || credential::request(root(), &call.node)).await
}

pub(super) async fn sign_credentials(_: Scope, call: SignCredentials) -> Result<Vec<Signed>> {
    super::blocking(move || {
        call.requests
            .iter()
            .map(|request| {
                credential::check_node_name(&request.node)?;
                credential::sign(root(), request, call.hours)
            })
            .collect()
    })
    .await
}

pub(super) async fn install_credential(_: Scope, call: InstallCredential) -> Result<()> {
    super::blocking(move || credential::install(root(), &call.signed, &call.cluster, &call.server))
        .await
}

pub(super) async fn pull_images(scope: Scope, call: PullImages) -> Result<()> {
    let (tree, context) = (tree(&scope), scope.context.clone());
    super::blocking(move || runtime::pull(&context, &tree, &call.references)).await
}

pub(super) async fn connect(address: IpAddr) -> Result<Connection> {
    Connection::open(&root().join("etc/kubernetes/admin.conf"), address).await
}

/// Looks again and again until it is well, the time is over, or nobody waits any
/// more.
pub(super) async fn until<F: Future<Output = Result<()>>>(
    scope: &Scope,
    seconds: u64,
    what: &str,
    look: impl Fn() -> F,
) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let Err(error) = look().await else {
            return Ok(());
        };
        if scope.gone.is_cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        if Instant::now() >= end {
            let late = Error::new(Kind::Failed, format!("{what} after {seconds} s"));
            return Err(late.because(error));
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Where to look when a control plane does not come up.
const STATIC_PODS: &str =
    "see the logs of the static pods below `/var/log/pods/`, and `journalctl -u kubelet`";

pub(super) async fn wait_api(scope: Scope, call: WaitApi) -> Result<()> {
    let what = "the API server on this host is not ready";
    let look = || api_is_ready(call.address);
    until(&scope, call.seconds, what, look)
        .await
        .map_err(|error| error.hint(STATIC_PODS))
}

async fn api_is_ready(address: IpAddr) -> Result<()> {
    // super-admin.conf works before the cluster's roles exist.
    let path = root().join("etc/kubernetes/super-admin.conf");
    Connection::open(&path, address).await?.ready().await
}

pub(super) async fn await_control_plane(scope: Scope, call: AwaitControlPlane) -> Result<()> {
    let look = || async {
        running::check(root()).await?;
        // By the address that the others use.
        api_is_ready(call.address).await
    };
    let what = "the control plane on this host is not ready";
    until(&scope, call.seconds, what, look)
        .await
        .map_err(|error| error.hint(STATIC_PODS))
}

pub(super) async fn await_kubelet(scope: Scope, call: AwaitKubelet) -> Result<()> {
    let look = || runtime::kubelet_is_healthy(root());
    let what = "kubelet on this host is not healthy";
    let result = tokio::select! {
        result = until(&scope, call.seconds, what, look) => result,
        error = kubelet_has_failed() => Err(error),
    };
    result.map_err(|error| error.hint("`journalctl -u kubelet` on the host"))
}

/// How often kubelet may end until it is not expected to come up any more.
const ENDINGS: u32 = 3;

/// Comes back when kubelet has ended again and again from now on. Systemd counts on
/// over a change of kubelet's program.
async fn kubelet_has_failed() -> Error {
    let mut first = None;
    loop {
        // Where systemd does not tell, whoever waits for kubelet's health says what is
        // wrong.
        if let Ok(state) = super::blocking(|| unit::state("kubelet.service")).await {
            let before = *first.get_or_insert(state.restarts);
            if state.restarts >= before.saturating_add(ENDINGS) {
                let what = format!("kubelet ended {ENDINGS} times, one after the other");
                return Error::new(Kind::Failed, what);
            }
        }
        tokio::time::sleep(BEAT * 2).await;
    }
}

pub(super) async fn apply_objects(scope: Scope, call: ApplyObjects) -> Result<()> {
    let state = scope.root().to_owned();
    // Not the tree that the node runs from: that one changes after the control plane.
    let tree = super::blocking(move || staged(&call.generation)).await?;
    let config = tree.join(kubeadm::CONFIG);
    let rendered = {
        let (tree, config, context) = (tree.clone(), config.clone(), scope.context.clone());
        super::blocking(move || {
            // Also gives the administrators' group its role, by super-admin.conf.
            objects::upload_configuration(&context, &tree, &config)?;
            objects::render(&context, &tree, &config, call.dns_forward)
        })
        .await?
    };
    let mut all = kube::parse_objects("kubeadm's addons", &rendered)?;
    all.extend(kube::parse_objects(
        "the balancer's permissions",
        crate::node::balancer::RBAC,
    )?);
    for (name, text) in image_manifests(&tree)? {
        all.extend(kube::parse_objects(&name, &text)?);
    }
    let connection = connect(call.address).await?;
    let mut begun = record(&state)
        .map(|record| record.objects)
        .unwrap_or_default();
    let names = all.iter().map(ObjectName::of);
    begun.extend(
        names
            .filter(|name| !begun.contains(name))
            .collect::<Vec<_>>(),
    );
    write_record(&state, unfinished(&call.identity), begun)?;
    let applied = kube::apply(&connection, all).await?;
    for gone in kube::delete_surplus(&connection, &call.surplus, &applied).await? {
        scope.context.note(format!("deleted {gone}"));
    }
    write_record(&state, call.identity, applied)
}

/// What is recorded while objects are applied: cut in between, they are neither what
/// they were nor what they are to be.
fn unfinished(identity: &Digest) -> Digest {
    Digest::of(format!("unfinished {identity}"))
}

/// The manifests of the cluster image, rendered at staging, in name order.
fn image_manifests(tree: &Path) -> Result<Vec<(String, String)>> {
    let directory = tree.join("chasi/manifests");
    let problem = || format!("cannot read `{}`", directory.display());
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).or_err(Kind::System, problem),
    };
    let mut manifests = Vec::new();
    for entry in entries {
        let path = entry.or_err(Kind::System, problem)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            let text = std::fs::read_to_string(&path).or_err(Kind::System, problem)?;
            manifests.push((
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                text,
            ));
        }
    }
    manifests.sort();
    Ok(manifests)
}

fn write_record(state: &Path, identity: Digest, objects: Vec<ObjectName>) -> Result<()> {
    let path = record_path(state);
    let bytes = serde_json::to_vec_pretty(&Record { identity, objects }).or_err(
        Kind::Failed,
        || "cannot write the record of the cluster's objects",
    )?;
    if let Some(directory) = path.parent() {
        file::create_directories(directory)?;
    }
    file::write(&path, &bytes, 0o644)
}

pub(super) async fn record_objects(scope: Scope, call: RecordObjects) -> Result<()> {
    let state = scope.root().to_owned();
    super::blocking(move || write_record(&state, call.identity, call.objects)).await
}

pub(super) async fn read_objects(scope: Scope, _: ReadObjects) -> Result<Vec<ObjectName>> {
    let state = scope.root().to_owned();
    super::blocking(move || {
        Ok(record(&state)
            .map(|record| record.objects)
            .unwrap_or_default())
    })
    .await
}

/// `kube-system`, and the namespaces that chasi's own objects made, and no others.
pub(super) fn system_namespaces(state: &Path) -> Vec<String> {
    let recorded = record(state)
        .map(|record| record.objects)
        .unwrap_or_default();
    let made = recorded
        .into_iter()
        .filter(|object| object.kind == "Namespace")
        .map(|object| object.name);
    let all: BTreeSet<String> = std::iter::once("kube-system".to_owned())
        .chain(made)
        .collect();
    all.into_iter().collect()
}

pub(super) async fn cluster_state(scope: Scope, call: ClusterState) -> Result<ClusterReport> {
    let connection = connect(call.address).await?;
    let namespaces = match call.namespaces.is_empty() {
        true => system_namespaces(scope.root()),
        false => call.namespaces,
    };
    let (nodes, pods) = futures::try_join!(
        kube::nodes(&connection),
        kube::system_pods(&connection, &namespaces)
    )?;
    Ok(ClusterReport { nodes, pods })
}

pub(super) async fn set_node(scope: Scope, call: SetNode) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(call.seconds);
    let connection = connect(call.address).await?;
    loop {
        let set = kube::set_metadata(
            &connection,
            &call.node,
            &call.labels,
            &call.taints,
            &call.way,
        );
        let Err(error) = set.await else {
            return Ok(());
        };
        if scope.gone.is_cancelled() || Instant::now() >= end {
            return Err(error.hint(format!(
                "on the node, `journalctl -u kubelet` tells why `{}` has not registered",
                call.node
            )));
        }
        tokio::time::sleep(BEAT).await;
    }
}

pub(super) async fn read_kubeconfig(_: Scope, _: ReadKubeconfig) -> Result<AdminKubeconfig> {
    super::blocking(|| {
        let path = root().join("etc/kubernetes/admin.conf");
        let text = std::fs::read_to_string(&path)
            .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
        Ok(AdminKubeconfig { text })
    })
    .await
}
