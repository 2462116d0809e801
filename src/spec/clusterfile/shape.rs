//! What can be written in a document of chasi's kind `Cluster`. The types give
//! the parser and the JSON Schema; their comments are what `chasi schema` and an
//! editor show, so they speak to the person who writes a Clusterfile.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::decode::{At, SCALAR, Scalar};
use crate::spec::certificate::{CertificateName, Fingerprint, Validity};
use crate::spec::cluster::{Effect, EnvironmentValue, Swap};
use crate::spec::name::{
    ClusterName, EnvironmentName, FeatureGate, HostName, ImageName, LabelKey, LabelValue,
    ModuleName, SysctlName, UserName,
};
use crate::spec::network::{Address, Cidr, Domain, Endpoint, InterfaceName};
use crate::spec::plugin::{PluginName, SettingName, SettingValue};

/// The `apiVersion` of chasi's kinds.
pub(super) const API_VERSION: &str = "chasi.dev/v1";

/// A cluster: which image runs on which hosts, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    /// Which version of this format the file has.
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    /// What the document describes.
    #[serde(rename = "kind")]
    _kind: Kind,
    /// What the cluster is called.
    pub metadata: At<Metadata>,
    /// What it is to be.
    pub spec: At<Spec>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
enum ApiVersion {
    #[serde(rename = "chasi.dev/v1")]
    V1,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
enum Kind {
    Cluster,
}

/// What the cluster is called.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Metadata {
    /// The cluster's name. It is part of the name of its API servers,
    /// `api.NAME.chasi.internal`, and cannot be changed later.
    pub name: At<ClusterName>,
}

/// What the cluster is to be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    /// The cluster image to run.
    pub image: At<ImageName>,
    /// How to get into the hosts. Each host can say otherwise.
    pub ssh: Option<At<Ssh>>,
    /// The hosts. At least one has the role `control-plane`.
    pub hosts: At<Vec<At<Host>>>,
    /// Pod and service networks.
    pub network: Option<At<Network>>,
    /// What Kubernetes itself is told.
    pub kubernetes: Option<At<Kubernetes>>,
    /// A name or address outside the cluster that leads to its API servers: a
    /// virtual IP, a balancer, a DNS name. `chasi kubeconfig` uses it, and it is
    /// in the certificate. The hosts themselves never need it. Default: the first
    /// control plane's address.
    pub control_plane_endpoint: Option<At<Endpoint>>,
    /// What every host is told.
    pub settings: Option<At<Settings>>,
    /// The registry that runs on each host.
    pub registry: Option<At<Registry>>,
    /// Variables for the templates of the image, for every host.
    pub env: Option<At<Variables>>,
    /// Plugins of the image that are turned on, with their settings, in the order
    /// in which they run.
    pub plugins: Option<At<Vec<At<Plugin>>>>,
}

/// A plugin of the image.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Plugin {
    /// Its name.
    pub name: At<PluginName>,
    /// Whether it runs. Default: true.
    pub enabled: Option<At<bool>>,
    /// The hosts that this is about. Default: all. A plugin can be named again
    /// for other hosts.
    pub hosts: Option<At<Vec<At<HostName>>>>,
    /// What it is told; its manifest says what it takes.
    pub settings: Option<At<BTreeMap<SettingName, At<Said>>>>,
}

/// What is said of a plugin's setting.
#[derive(Debug, JsonSchema)]
#[serde(untagged)]
pub(super) enum Said {
    /// Its value.
    Value(SettingValue),
    /// Where a secret comes from.
    Secret(SecretPlace),
}

/// Where a secret comes from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretPlace {
    /// A file; its first line is the secret.
    pub file: Option<At<String>>,
    /// An environment variable of the process that runs chasi.
    pub env: Option<At<EnvironmentName>>,
}

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SaidVisitor;

        impl<'de> Visitor<'de> for SaidVisitor {
            type Value = Said;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a whole number, `true` or `false`, a list of texts, or `{file: PATH}` or `{env: NAME}` of a secret")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Said, E> {
                SettingValue::deserialize(value.into_deserializer()).map(Said::Value)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Said, E> {
                SettingValue::deserialize(number.into_deserializer()).map(Said::Value)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Said, E> {
                SettingValue::deserialize(number.into_deserializer()).map(Said::Value)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Said, E> {
                SettingValue::deserialize(text.into_deserializer()).map(Said::Value)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Said, A::Error> {
                SettingValue::deserialize(SeqAccessDeserializer::new(items)).map(Said::Value)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Said, A::Error> {
                SecretPlace::deserialize(MapAccessDeserializer::new(fields)).map(Said::Secret)
            }
        }

        deserializer.deserialize_any(SaidVisitor)
    }
}

/// Variables by name. A value is text, a number, a boolean, or a list of them.
pub(super) type Variables = BTreeMap<EnvironmentName, Variable>;

/// How to get into hosts by SSH, and how to become root there.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ssh {
    /// The user to log in as. Default: `root`.
    pub user: Option<At<UserName>>,
    /// The port of the SSH server. Default: 22.
    pub port: Option<At<Port>>,
    /// Private keys to log in with; `~/` is your home, other relative paths start
    /// at the Clusterfile. Default: those of `id_ed25519`, `id_ecdsa` and `id_rsa`
    /// in `~/.ssh` that exist.
    pub identity_files: Option<At<Vec<At<String>>>>,
    /// A file with the passphrase of the private keys.
    pub passphrase_file: Option<At<String>>,
    /// An environment variable with the passphrase of the private keys.
    pub passphrase_env: Option<At<EnvironmentName>>,
    /// Whether to try the keys of a running ssh-agent. Default: true.
    pub agent: Option<At<bool>>,
    /// A file with the user's password.
    pub password_file: Option<At<String>>,
    /// An environment variable with the user's password.
    pub password_env: Option<At<EnvironmentName>>,
    /// Files that list the keys of known hosts. Default: `~/.ssh/known_hosts` and
    /// `/etc/ssh/ssh_known_hosts`.
    pub known_hosts: Option<At<Vec<At<String>>>>,
    /// The fingerprint of the host's key, instead of known hosts. Belongs to one
    /// host.
    pub host_key: Option<At<Fingerprint>>,
    /// How a user who is not root becomes root. Default: `sudo` without a
    /// password.
    pub sudo: Option<At<Sudo>>,
    /// A host to go through.
    pub jump: Option<At<Jump>>,
}

/// How a user who is not root becomes root.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Sudo {
    /// A file with the password that `sudo` asks for.
    pub password_file: Option<At<String>>,
    /// An environment variable with the password that `sudo` asks for.
    pub password_env: Option<At<EnvironmentName>>,
}

/// A host to go through to reach the others.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Jump {
    /// Where it is.
    pub address: At<Address>,
    /// The user to log in as. Default: the user of the hosts.
    pub user: Option<At<UserName>>,
    /// The port of its SSH server. Default: 22.
    pub port: Option<At<Port>>,
    /// Private keys to log in with. Default: those of the hosts.
    pub identity_files: Option<At<Vec<At<String>>>>,
    /// A file with the passphrase of the private keys.
    pub passphrase_file: Option<At<String>>,
    /// An environment variable with the passphrase of the private keys.
    pub passphrase_env: Option<At<EnvironmentName>>,
    /// Whether to try the keys of a running ssh-agent. Default: as for the hosts.
    pub agent: Option<At<bool>>,
    /// A file with the user's password.
    pub password_file: Option<At<String>>,
    /// An environment variable with the user's password.
    pub password_env: Option<At<EnvironmentName>>,
    /// Files that list the keys of known hosts. Default: as for the hosts.
    pub known_hosts: Option<At<Vec<At<String>>>>,
    /// The fingerprint of its key, instead of known hosts.
    pub host_key: Option<At<Fingerprint>>,
}

/// One host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Host {
    /// Its name, which is also the name of its Kubernetes node.
    pub name: At<HostName>,
    /// Where SSH reaches it: an IP address or a DNS name.
    pub address: At<Address>,
    /// Where the other hosts reach it, one address of each family, the primary
    /// first. Default: `address` when it is an IP address, otherwise the source
    /// address of the host's default route.
    #[serde(rename = "nodeIPs")]
    pub node_ips: Option<At<Vec<At<Ip>>>>,
    /// The network interface whose addresses are used, instead of `nodeIPs`.
    pub node_interface: Option<At<InterfaceName>>,
    /// `control-plane`, `worker`, or both: a control plane that is also a worker
    /// runs ordinary pods.
    pub roles: At<Vec<At<Role>>>,
    /// Labels of its node.
    pub labels: Option<At<BTreeMap<LabelKey, LabelValue>>>,
    /// Taints of its node: `key=value:Effect`, or a mapping.
    pub taints: Option<At<Vec<At<Taint>>>>,
    /// How to get into it, over what the cluster says.
    pub ssh: Option<At<Ssh>>,
    /// Variables for templates, over those of the cluster.
    pub env: Option<At<Variables>>,
}

/// What a host does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    /// Runs etcd, the API server, the scheduler and the controllers.
    ControlPlane,
    /// Runs pods.
    Worker,
}

/// Pod and service networks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Network {
    /// Where pods get their addresses: one network, or one of each family with
    /// the primary first. Default: `10.244.0.0/16`.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<At<Vec<At<Cidr>>>>,
    /// Where services get theirs: the same families in the same order. Default:
    /// `10.96.0.0/16`.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Option<At<Vec<At<Cidr>>>>,
    /// The cluster's DNS domain. Default: `cluster.local`.
    pub dns_domain: Option<At<Domain>>,
    /// The prefix of the part of the pod network that each node gets.
    #[serde(rename = "nodeCIDRMaskSizes")]
    pub node_cidr_mask_sizes: Option<At<MaskSizes>>,
}

/// A prefix in bits for each family.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MaskSizes {
    /// For IPv4. Default: 24, which is 254 pods a node.
    pub ipv4: Option<At<u8>>,
    /// For IPv6. Default: 64.
    pub ipv6: Option<At<u8>>,
}

/// What Kubernetes itself is told.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kubernetes {
    /// How long the certificates of components are valid. Default: `10y`.
    pub certificate_validity: Option<At<Validity>>,
    /// How long the certificates of the authorities are valid; not shorter.
    /// Default: `30y`.
    pub ca_validity: Option<At<Validity>>,
    /// More names and addresses for the API server's certificate.
    #[serde(rename = "apiServerCertSANs")]
    pub api_server_cert_sans: Option<At<Vec<At<CertificateName>>>>,
    /// Feature gates of all components.
    pub feature_gates: Option<At<BTreeMap<FeatureGate, bool>>>,
}

/// What every host is told.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Settings {
    /// Kernel parameters, besides those that Kubernetes needs.
    pub sysctls: Option<At<BTreeMap<SysctlName, Scalar>>>,
    /// Kernel modules to load, besides those that Kubernetes needs.
    pub modules: Option<At<Vec<At<ModuleName>>>>,
    /// What happens to swap: `off` turns it off, `keep` leaves it and lets
    /// kubelet start nevertheless. Default: `off`.
    pub swap: Option<At<Swap>>,
    /// More entries for `/etc/hosts`.
    pub hosts: Option<At<Vec<At<HostsEntry>>>>,
    /// Whether a host gets the name that it has here. Default: true.
    pub set_hostname: Option<At<bool>>,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HostsEntry {
    /// The address.
    pub ip: At<Ip>,
    /// Its names.
    pub names: At<Vec<At<Domain>>>,
}

/// The registry that runs on each host.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Registry {
    /// Whether a container image that the cluster image does not have may be
    /// pulled from where its reference says. Default: false.
    pub fall_through: Option<At<bool>>,
}

/// A TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;

        impl Visitor<'_> for PortVisitor {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Port, E> {
                match u16::try_from(number) {
                    Ok(port) if port > 0 => Ok(Port(port)),
                    _ => Err(de::Error::invalid_value(
                        de::Unexpected::Unsigned(number),
                        &self,
                    )),
                }
            }
        }

        deserializer.deserialize_u16(PortVisitor)
    }
}

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
}

/// An IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip(pub IpAddr);

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(ip) => Ok(Ip(ip)),
            Err(_) => Err(de::Error::custom(format!("`{text}` is not an IP address"))),
        }
    }
}

impl JsonSchema for Ip {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ip".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
    }
}

/// The value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable(pub EnvironmentValue);

impl<'de> Deserialize<'de> for Variable {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VariableVisitor;

        impl<'de> Visitor<'de> for VariableVisitor {
            type Value = Variable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Variable, E> {
                Ok(Variable(EnvironmentValue::One(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Variable, A::Error> {
                let mut texts = Vec::new();
                while let Some(Scalar(text)) = items.next_element()? {
                    texts.push(text);
                }
                Ok(Variable(EnvironmentValue::Many(texts)))
            }
        }

        deserializer.deserialize_newtype_struct(SCALAR, VariableVisitor)
    }
}

impl JsonSchema for Variable {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Variable".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "number", "boolean", "array"],
            "items": { "type": ["string", "number", "boolean"] }
        })
    }
}

/// A taint: `key=value:Effect`, or a mapping.
#[derive(Clone, Debug)]
pub(super) struct Taint(pub crate::spec::cluster::Taint);

/// A taint, written out.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TaintMapping {
    /// Its key.
    key: LabelKey,
    /// Its value; may be left out.
    value: Option<LabelValue>,
    /// What it does to pods that do not tolerate it.
    effect: Effect,
}

impl<'de> Deserialize<'de> for Taint {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TaintVisitor;

        impl<'de> Visitor<'de> for TaintVisitor {
            type Value = Taint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`key=value:Effect` or a mapping")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Taint, E> {
                text.parse().map(Taint).map_err(de::Error::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Taint, A::Error> {
                let mapping =
                    TaintMapping::deserialize(de::value::MapAccessDeserializer::new(entries))?;
                Ok(Taint(crate::spec::cluster::Taint {
                    key: mapping.key,
                    value: mapping.value.unwrap_or_default(),
                    effect: mapping.effect,
                }))
            }
        }

        deserializer.deserialize_any(TaintVisitor)
    }
}

impl JsonSchema for Taint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Taint".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                { "type": "string", "description": "`key=value:Effect` or `key:Effect`." },
                TaintMapping::json_schema(generator)
            ]
        })
    }
}
