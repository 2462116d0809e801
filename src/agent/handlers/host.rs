//! Answers about the host itself.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::agent::Scope;
use crate::agent::calls::distro::DistroState;
use crate::agent::calls::host::*;
use crate::agent::server::farewell::is_unmanaged;
use crate::digest::Digest;
use crate::distro::kubeadm::{running, static_pods, teardown};
use crate::distro::{EtcdStart, File};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;
use crate::host::facts::Facts;
use crate::host::generation;
use crate::host::journal::Journal;
use crate::host::leave::{self, Left, Traces};
use crate::host::recipe::{ExtraFile, Recipe};
use crate::host::{Part, Root, evidence, hook, setting, switch, unit};
use crate::node::{self, balancer::Seeds};
use crate::oci::{Reference, Store};
use crate::spec::plugin::Phase;

/// How long a unit may take to run.
const PATIENCE: Duration = Duration::from_secs(90);

/// Units that start when the distribution says so, and not with a switch. Those
/// that run by then are restarted like all others.
const HELD: [&str; 1] = ["kubelet.service"];
/// The services whose journals tell why an install fails.
const SERVICES: [&str; 3] = ["kubelet.service", "containerd.service", node::SERVICE];

/// What a control plane's static pods are made from: the `source` of its recipe.
#[derive(Deserialize)]
struct StaticPods {
    config: String,
    etcd: EtcdStart,
    /// etcd's manifest, where it is not the one that the image's kubeadm writes.
    #[serde(default)]
    etcd_manifest: Option<String>,
}

/// The largest manifest of a static pod, in bytes.
const LARGEST: u64 = 64 << 10;

fn static_pod_source(recipe: &Recipe) -> Result<Option<StaticPods>> {
    if recipe.source.is_null() {
        return Ok(None);
    }
    serde_json::from_value(recipe.source.clone()).or_err(
        Kind::Failed,
        || "the recipe's source of static pods cannot be understood",
    )
}

/// How the etcd of a recipe's control plane starts; none on workers.
pub(super) fn etcd_start(recipe: &Recipe) -> Result<Option<EtcdStart>> {
    Ok(static_pod_source(recipe)?.map(|source| source.etcd))
}

fn store(state: &Path) -> Result<Store> {
    Store::create(&state.join("store"))
}

/// What the generations in use say of etcd and of services.
#[derive(Default)]
struct Own {
    /// How etcd on this host started.
    etcd: Option<EtcdStart>,
    etcd_manifest: Option<String>,
    /// Services that should run and do not.
    stopped: Vec<String>,
}

fn own(root: &Root) -> Result<Own> {
    let mut own = Own::default();
    if let Some(number) = generation::current(root, Part::ControlPlane)? {
        let recipe = generation::load(root, number)?.recipe;
        own.etcd = etcd_start(&recipe)?;
        own.etcd_manifest = etcd_manifest(&generation::tree(root, number))?;
    }
    if let Some(number) = generation::current(root, Part::Node)? {
        for name in generation::load(root, number)?.units {
            let at_work = ["active", "activating", "reloading"];
            let held = HELD.contains(&name.as_str());
            if !held && !at_work.contains(&unit::state(&name)?.active.as_str()) {
                own.stopped.push(name);
            }
        }
    }
    Ok(own)
}

fn etcd_manifest(tree: &Path) -> Result<Option<String>> {
    let path = tree.join(static_pods::ETCD.trim_start_matches('/'));
    let problem = || format!("cannot read `{}`", path.display());
    let file = match std::fs::File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.or_err(Kind::System, problem)?,
    };
    let mut text = String::new();
    file.take(LARGEST)
        .read_to_string(&mut text)
        .or_err(Kind::System, problem)?;
    Ok(Some(text))
}

pub(super) async fn read_switches(_: Scope, _: ReadSwitches) -> Result<BTreeMap<Part, Digest>> {
    super::blocking(|| {
        let root = Root::host()?;
        let mut switches = BTreeMap::new();
        for part in Part::ALL {
            if let Some(number) = generation::current(&root, part)? {
                switches.insert(part, generation::load(&root, number)?.identity);
            }
        }
        Ok(switches)
    })
    .await
}

pub(super) async fn prune_generations(_: Scope, _: PruneGenerations) -> Result<()> {
    super::blocking(|| generation::prune(&Root::host()?).map(drop)).await
}

pub(super) async fn read_host(scope: Scope, _: ReadHost) -> Result<HostReport> {
    let state = scope.root().to_owned();
    let (managed, facts, own) = super::blocking(move || {
        let root = Root::host()?;
        let managed = !is_unmanaged(&state)?;
        Ok((managed, Facts::gather(&root)?, own(&root)?))
    })
    .await?;
    let program_is_current = program_is_current()?;
    let api = Seeds::read(&Path::new("/").join(node::balancer::seeds::PATH))?
        .local
        .map(|server| server.ip());
    let distro = super::distro::distro_state(scope, DistroState {}).await?;
    Ok(HostReport {
        managed,
        facts,
        etcd: own.etcd,
        etcd_manifest: own.etcd_manifest,
        stopped: own.stopped,
        api,
        program_is_current,
        distro,
    })
}

pub(super) async fn check_settings(_: Scope, call: CheckSettings) -> Result<bool> {
    super::blocking(move || setting::settled(&Root::host()?, &call.settings)).await
}

pub(super) async fn stage_generation(scope: Scope, call: StageGeneration) -> Result<u64> {
    let (state, context) = (scope.root().to_owned(), scope.context.clone());
    super::blocking(move || {
        let root = Root::host()?;
        let source = static_pod_source(&call.recipe)?;
        let produce = |tree: &Path| match &source {
            None => Ok(Vec::new()),
            Some(source) => static_pods::render(&context, tree, &source.config, &source.etcd)?
                .into_iter()
                .map(|file| match &source.etcd_manifest {
                    Some(content) if static_pods::ETCD.ends_with(&file.path) => File {
                        content: content.clone(),
                        ..file
                    },
                    _ => file,
                })
                .map(|file| {
                    Ok(ExtraFile {
                        path: file.path.parse()?,
                        mode: file.mode,
                        content: file.content,
                    })
                })
                .collect(),
        };
        generation::stage(&root, &store(&state)?, &call.recipe, produce, &context)
            .map(|staged| staged.number)
    })
    .await
}

pub(super) async fn switch_to(scope: Scope, call: SwitchTo) -> Result<Switched> {
    let context = scope.context.clone();
    super::blocking(move || switch_part(&context, &call)).await
}

fn switch_part(context: &Context, call: &SwitchTo) -> Result<Switched> {
    let root = Root::host()?;
    switch::recover(&root)?;
    let number = generation::find(&root, &call.identity)?.ok_or_else(|| {
        Error::new(
            Kind::Failed,
            format!(
                "the generation {} has not been staged",
                call.identity.short()
            ),
        )
        .hint("run the same command again")
    })?;
    let journal = Journal::open(&root, &call.run)?;
    if call.part == Part::Node {
        if generation::current(&root, Part::Node)?.is_none() {
            let (directories, parameters) = teardown::traces();
            let traces = Traces {
                directories: &directories,
                parameters,
            };
            leave::note_existing(&root, &traces)?;
        }
        setting::apply(&root, &call.settings)?;
    }
    if call.part == Part::ControlPlane && changes_etcd(&root, number)? {
        // What would be refused is, while the API server still runs.
        generation::verify(&root, call.part, number)?;
        running::stop_api_server(context)?;
    }
    let renewed = call.part == Part::Node && install_program(&root)?;
    let changes = switch::switch(&root, &journal, call.part, Some(number), context)?;
    let units = match call.part {
        Part::Node => start_units_of(context, &root, number, &changes, renewed)?,
        Part::ControlPlane => Vec::new(),
    };
    Ok(Switched {
        kept: changes.kept,
        units,
    })
}

/// Whether a switch would make an etcd that runs another one.
fn changes_etcd(root: &Root, number: u64) -> Result<bool> {
    let changes = switch::diff(root, Part::ControlPlane, Some(number))?;
    let is_etcd = |change: &switch::Change| {
        change.path == static_pods::ETCD && change.what == switch::What::Change
    };
    Ok(changes.paths.iter().any(is_etcd))
}

/// The agent's own program, which is under its digest.
fn program() -> Result<PathBuf> {
    std::fs::read_link("/proc/self/exe")
        .or_err(Kind::System, || "cannot find the agent's own program")
}

/// Whether the units run this very program.
fn program_is_current() -> Result<bool> {
    Ok(std::fs::canonicalize(node::BINARY).ok() == Some(program()?))
}

/// Makes this agent's program the one that the units run. Returns whether it was
/// another one before.
fn install_program(root: &Root) -> Result<bool> {
    if program_is_current()? {
        return Ok(false);
    }
    let link = root.state("bin/chasi");
    if let Some(directory) = link.parent() {
        file::create_directories(directory)?;
    }
    file::link(&link, &program()?)?;
    Ok(true)
}

/// Starts what the generation starts with the host, and restarts what sees a
/// change only then.
fn start_units_of(
    context: &Context,
    root: &Root,
    number: u64,
    changes: &switch::Changes,
    renewed: bool,
) -> Result<Vec<String>> {
    unit::reload()?;
    let held = |name: &&str| !HELD.contains(name);
    // Parameters and modules of the generation's files, before what needs them.
    for refused in setting::apply_kernel(root, number)? {
        context.warn(refused.to_string());
    }
    let all = generation::load(root, number)?.units;
    let mut affected: Vec<&str> = Vec::new();
    for name in changes.affected.iter().map(String::as_str) {
        if held(&name) || unit::state(name)?.active == "active" {
            affected.push(name);
        }
    }
    if renewed
        && !affected.contains(&node::SERVICE)
        && unit::state(node::SERVICE)?.active == "active"
    {
        affected.push(node::SERVICE);
    }
    if !affected.is_empty() {
        unit::restart(&affected)?;
    }
    let wanted: Vec<&str> = all.iter().map(String::as_str).filter(held).collect();
    unit::start(&wanted)?;
    for name in &wanted {
        unit::wait_active(name, PATIENCE, context)?;
    }
    Ok(wanted.into_iter().map(str::to_owned).collect())
}

pub(super) async fn start_units(scope: Scope, call: StartUnits) -> Result<()> {
    let context = scope.context.clone();
    super::blocking(move || {
        let names: Vec<&str> = call.units.iter().map(String::as_str).collect();
        unit::start(&names)?;
        let patience = Duration::from_secs(call.seconds);
        names
            .iter()
            .try_for_each(|name| unit::wait_active(name, patience, &context))
    })
    .await
}

/// First what runs, then what it was made from. Running it again does what is
/// left.
pub(super) async fn leave_host(scope: Scope, call: Leave) -> Result<Left> {
    let (state, context) = (scope.root().to_owned(), scope.context.clone());
    super::blocking(move || {
        let root = Root::host()?;
        switch::recover(&root)?;
        let journal = Journal::open(&root, &call.run)?;
        hook::moment(&root, &journal, Phase::BeforeLeave, &context)?;
        // Where no generation ever came into use, a container runtime is someone
        // else's.
        let is_in_use = generation::current(&root, Part::Node)?.is_some();
        let theirs = leave::existing(&root)?;
        if is_in_use {
            teardown::teardown(&context, &state, &state.join("node"), &theirs)?;
        }
        let left = leave::leave(&root, &journal, &context)?;
        if is_in_use {
            teardown::remove_empty_directories(&theirs);
        }
        Ok(left)
    })
    .await
}

pub(super) async fn tag_image(scope: Scope, call: TagImage) -> Result<()> {
    let state = scope.root().to_owned();
    super::blocking(move || {
        let reference: Reference = call.reference.parse()?;
        let store = store(&state)?;
        store.hold()?.tag(&reference, &call.index)
    })
    .await
}

pub(super) async fn read_journals(_: Scope, _: ReadJournals) -> Result<String> {
    super::blocking(|| Ok(evidence::gather(&SERVICES))).await
}
