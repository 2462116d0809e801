//! What the checks look at: everything that was gathered, as a value. Judging it
//! needs no host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::agent::calls::host::HostReport;
use crate::agent::calls::inspect::ClusterInspection;
use crate::distro::kubeadm::etcd_health::EtcdHealth;
use crate::distro::kubeadm::expiry::Expiry;
use crate::distro::ports::Protocol;
use crate::error::{Error, Kind};
use crate::host::facts::{Facts, Known};
use crate::host::probe::{Filter, Neighbour, Opened, Path, Reached, Writes};
use crate::oci::image::Sizes;
use crate::oci::{Blob, ClusterImage};
use crate::spec;

/// A cluster's hosts, what lies between them, and what they are to become.
pub(super) struct Site<'a> {
    /// What was asked for.
    pub cluster: &'a spec::Cluster,
    /// The cluster image.
    pub image: Known<&'a ClusterImage>,
    /// How large its layers are without compression.
    pub sizes: Known<Sizes>,
    /// The hosts, in the Clusterfile's order.
    pub hosts: Vec<SiteHost<'a>>,
    /// What lies between them.
    pub ways: Known<Ways>,
    /// Who has the control plane's address.
    pub vip: Known<Vip>,
    /// What the API says.
    pub running: Known<ClusterInspection>,
}

/// A host, and what is known of it.
pub(super) struct SiteHost<'a> {
    /// What was asked for.
    pub host: &'a spec::cluster::Host,
    /// What it says of itself, or why it could not be entered.
    pub report: std::result::Result<HostReport, Closed>,
    /// What it lacks of the image.
    pub missing: Known<Vec<Blob>>,
    /// Its clock.
    pub clock: Known<Clock>,
    /// What its packet filter drops and rejects.
    pub filter: Known<Filter>,
    /// How fast the disk of etcd's data is.
    pub writes: Known<Writes>,
    /// Whether its API server is ready, or why not.
    pub api: Known<std::result::Result<(), String>>,
    /// How its member of etcd is.
    pub etcd: Known<EtcdHealth>,
    /// When its certificates end.
    pub expiries: Known<Vec<Expiry>>,
}

/// A host's clock, compared with the controller's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// How far it is ahead, in nanoseconds; negative when it is behind.
    pub ahead: i64,
    /// How far that may be wrong, to either side, in nanoseconds.
    pub doubt: i64,
}

/// The ways between hosts that were measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    /// Each in one direction.
    pub measured: Vec<Way>,
    /// How many there are.
    pub all: usize,
}

/// The way from one host to another.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub from: String,
    pub to: String,
    /// The ports that the one has to reach on the other.
    pub ports: Vec<PortReached>,
    /// How large packets may be, to each of the other's addresses.
    pub paths: Vec<PathMeasured>,
    /// How large packets may be through the pod network, where there is one already.
    pub overlay: Option<Known<Path>>,
}

/// A port of another host, and how it answered.
#[derive(Clone, Debug)]
pub(super) struct PortReached {
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// Who listens there in a cluster.
    pub what: &'static str,
    /// What became of listening there.
    pub opened: Opened,
    pub reached: Known<Reached>,
}

/// How large packets may be on the way to an address.
#[derive(Clone, Debug)]
pub(super) struct PathMeasured {
    pub address: IpAddr,
    /// By which interface they leave, and how large that one sends them.
    pub interface: String,
    pub wanted: u16,
    pub found: Known<Path>,
}

/// Who has the control plane's address.
#[derive(Clone, Debug)]
pub(super) enum Vip {
    /// There is none to ask for, and why.
    None(&'static str),
    /// It was asked for.
    Asked {
        address: Ipv4Addr,
        /// The host that asked.
        from: String,
        neighbour: Neighbour,
    },
}

/// Why a host could not be entered.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    /// How far the attempt came.
    pub stage: Stage,
    /// What went wrong, in one line.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// What entering a host takes, in order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Stage {
    /// Reaching its SSH server, and logging in.
    Ssh,
    /// Having the key that was expected.
    HostKey,
    /// Becoming root.
    Sudo,
    /// Starting the agent.
    Agent,
}

impl Closed {
    /// From what `agent::connect` says.
    pub fn because(error: &Error) -> Self {
        let causes: Vec<String> = error.causes().map(ToString::to_string).collect();
        let message = error.to_string();
        let reason = std::iter::once(message.as_str())
            .chain(causes.iter().map(String::as_str))
            .filter_map(|text| text.lines().next())
            .collect::<Vec<_>>()
            .join(": ");
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        let stage = match error.kind() {
            Kind::Check if says(&["host key", "HOST KEY"]) => Stage::HostKey,
            Kind::Check | Kind::Failed if says(&["sudo", "is not root"]) => Stage::Sudo,
            Kind::Check if says(&["does not let"]) => Stage::Ssh,
            Kind::Unreachable | Kind::Input | Kind::Usage => Stage::Ssh,
            _ => Stage::Agent,
        };
        let hint = match error.hints() {
            [] => "`ssh -v` to the host shows how far it gets".to_owned(),
            hints => hints.join("; "),
        };
        Closed {
            stage,
            reason,
            hint,
        }
    }
}

/// One host that could be entered, as a check sees it.
pub(super) struct Subject<'a> {
    pub site: &'a Site<'a>,
    pub host: &'a spec::cluster::Host,
    pub report: &'a HostReport,
    /// What was measured of it.
    pub measured: &'a SiteHost<'a>,
}

impl Subject<'_> {
    pub fn name(&self) -> &str {
        self.host.name.as_str()
    }

    pub fn facts(&self) -> &Facts {
        &self.report.facts
    }

    /// Whether chasi manages this host already; then what a cluster leaves
    /// behind is expected to be there.
    pub fn managed(&self) -> bool {
        !self.report.facts.managed.parts.is_empty()
    }

    pub fn control_plane(&self) -> bool {
        self.host.roles.is_control_plane()
    }

    /// The first host before this one, in the Clusterfile's order, that it has
    /// something in common with.
    pub fn twin<T: PartialEq>(&self, of: impl Fn(&Facts) -> Option<T>) -> Option<&str> {
        let own = of(self.facts())?;
        self.site
            .entered()
            .take_while(|other| other.name() != self.name())
            .find(|other| of(other.facts()).as_ref() == Some(&own))
            .map(|other| other.host.name.as_str())
    }
}

impl Site<'_> {
    /// Whether the image brings a pod network that goes by VXLAN, as flannel's does
    /// in chasi's catalogue.
    pub fn has_vxlan(&self) -> bool {
        match &self.image {
            Known::Is(image) => image
                .images
                .iter()
                .any(|image| image.reference.to_string().contains("flannel")),
            // Better one too many.
            Known::Unknown(_) => true,
        }
    }

    /// The hosts that could be entered.
    pub fn entered(&self) -> impl Iterator<Item = Subject<'_>> {
        self.hosts.iter().filter_map(|host| {
            Some(Subject {
                site: self,
                host: host.host,
                report: host.report.as_ref().ok()?,
                measured: host,
            })
        })
    }
}
