//! kubelet's credential: a client certificate for a key that never leaves the
//! host.
//!
//! The host makes a key and a request ([`request`]); a control plane signs it
//! ([`sign`]); the host installs the certificate beside the key ([`install`]).
//! What a kubelet of kubeadm's gets by a bootstrap token, without a token.
//! kubelet renews it itself later (`rotateCertificates`).

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};

use super::config::KUBELET_CERTIFICATE;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// The group that the Node authorizer knows nodes by
/// (kubernetes.io/docs/reference/access-authn-authz/node).
const GROUP: &str = "system:nodes";

/// A host's request for a certificate. Holds no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The node's name.
    pub node: String,
    /// The signing request, PEM.
    pub pem: String,
}

/// What a control plane answers. Holds no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Signed {
    /// The node's name.
    pub node: String,
    /// The certificate, PEM.
    pub certificate: String,
    /// The cluster's CA certificate, PEM.
    pub authority: String,
}

fn key_path(root: &Path) -> PathBuf {
    root.join("var/lib/kubelet/pki/.chasi-kubelet-client.key")
}

/// Which cluster's node a host is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
}

/// How the users that nodes are begin (kubernetes' `NodeUserNamePrefix`).
const NODE_USER: &str = "system:node:";

/// What kubelet's kubeconfig says of this host, when it is one that chasi wrote.
pub fn membership(root: &Path) -> Option<Membership> {
    let text = fs::read_to_string(root.join("etc/kubernetes/kubelet.conf")).ok()?;
    let kubeconfig: serde_json::Value = serde_saphyr::from_str(&text).ok()?;
    let context = &kubeconfig["contexts"][0]["context"];
    Some(Membership {
        cluster: context["cluster"].as_str()?.to_owned(),
        node: context["user"]
            .as_str()?
            .strip_prefix(NODE_USER)?
            .to_owned(),
    })
}

/// Whether kubelet has a credential on this host.
pub fn present(root: &Path) -> bool {
    root.join("etc/kubernetes/kubelet.conf").is_file()
        && root
            .join(KUBELET_CERTIFICATE.trim_start_matches('/'))
            .exists()
}

/// Makes a key, keeps it on this host, and a request for it.
pub fn request(root: &Path, node: &str) -> Result<Request> {
    let problem = || format!("cannot make a key for the node `{node}`");
    let key = KeyPair::generate().or_err(Kind::Failed, problem)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = subject(node);
    let request = parameters
        .serialize_request(&key)
        .or_err(Kind::Failed, problem)?;
    let path = key_path(root);
    if let Some(directory) = path.parent() {
        file::create_directories(directory)?;
    }
    file::write(&path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(Request {
        node: node.to_owned(),
        pem: request.pem().or_err(Kind::Failed, problem)?,
    })
}

/// Signs a request with the cluster's CA, which lies on this control plane. Only
/// the public key is taken from the request: the name, the group and the uses are
/// what a kubelet gets, whatever was asked for.
pub fn sign(root: &Path, request: &Request, hours: u32) -> Result<Signed> {
    let problem = || format!("cannot sign a certificate for the node `{}`", request.node);
    let pki = root.join("etc/kubernetes/pki");
    let read = |name: &str| {
        let path = pki.join(name);
        fs::read_to_string(&path)
            .or_err(Kind::System, || format!("cannot read `{}`", path.display()))
    };
    let authority = read("ca.crt")?;
    let key = KeyPair::from_pem(&read("ca.key")?).or_err(Kind::Failed, problem)?;
    let issuer = Issuer::from_ca_cert_pem(&authority, key).or_err(Kind::Failed, problem)?;
    let mut asked = CertificateSigningRequestParams::from_pem(&request.pem)
        .or_err(Kind::Integrity, || {
            format!("the request of the node `{}` is not valid", request.node)
        })?;
    asked.params = parameters(&request.node, hours);
    let certificate = asked.signed_by(&issuer).or_err(Kind::Failed, problem)?;
    Ok(Signed {
        node: request.node.clone(),
        certificate: certificate.pem(),
        authority,
    })
}

fn parameters(node: &str, hours: u32) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = subject(node);
    parameters.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    // Clocks of a fresh site may be minutes apart, as kube-controller-manager's
    // signer allows for too.
    let now = std::time::SystemTime::now();
    parameters.not_before = (now - std::time::Duration::from_secs(300)).into();
    parameters.not_after = (now + std::time::Duration::from_secs(u64::from(hours) * 3600)).into();
    parameters
}

fn subject(node: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, GROUP);
    name.push(DnType::CommonName, format!("{NODE_USER}{node}"));
    name
}

/// Where kubelet finds an API server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Server {
    /// The one on this host: a control plane's kubelet and API server move
    /// together (kubeadm's ControlPlaneKubeletLocalMode).
    Local(IpAddr),
    /// The balancer on this host, under the cluster's endpoint name.
    Balancer(String),
}

impl Server {
    fn url(&self) -> String {
        match self {
            Server::Local(IpAddr::V4(address)) => {
                format!("https://{address}:{}", super::super::API_PORT)
            }
            Server::Local(IpAddr::V6(address)) => {
                format!("https://[{address}]:{}", super::super::API_PORT)
            }
            Server::Balancer(name) => format!("https://{name}:{}", super::super::ENDPOINT_PORT),
        }
    }
}

/// Installs the certificate beside its key, and kubelet's kubeconfig last: while
/// that is not there, kubelet does not start.
pub fn install(root: &Path, signed: &Signed, cluster: &str, server: &Server) -> Result<()> {
    let key_path = key_path(root);
    let key = fs::read_to_string(&key_path).or_err(Kind::System, || {
        format!("cannot read `{}`", key_path.display())
    })?;
    let current = root.join(KUBELET_CERTIFICATE.trim_start_matches('/'));
    let directory = current.parent().unwrap_or(root).to_owned();
    // kubelet itself keeps dated files and a link to the newest one
    // (client-go/util/certificate/certificate_store.go).
    let dated = "kubelet-client-initial.pem";
    file::write(
        &directory.join(dated),
        format!("{}{key}", signed.certificate).as_bytes(),
        0o600,
    )?;
    file::link(&current, Path::new(dated))?;
    let authorities = root.join("etc/kubernetes/pki");
    file::create_directories(&authorities)?;
    let authority = authorities.join("ca.crt");
    if !authority.exists() {
        file::write(&authority, signed.authority.as_bytes(), 0o644)?;
    }
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": {
            "certificate-authority-data": base64::engine::general_purpose::STANDARD.encode(&signed.authority),
            "server": server.url(),
        }}],
        "users": [{ "name": format!("{NODE_USER}{}", signed.node), "user": {
            "client-certificate": KUBELET_CERTIFICATE,
            "client-key": KUBELET_CERTIFICATE,
        }}],
        "contexts": [{ "name": "node", "context": { "cluster": cluster, "user": format!("{NODE_USER}{}", signed.node) }}],
        "current-context": "node",
    });
    let text = serde_saphyr::to_string(&kubeconfig)
        .or_err(Kind::Failed, || "cannot write kubelet's kubeconfig as YAML")?;
    file::write(
        &root.join("etc/kubernetes/kubelet.conf"),
        text.as_bytes(),
        0o600,
    )?;
    file::remove(&key_path)
}

/// Fails unless the name can be a node's: what is signed must not depend on a
/// host's good will.
pub fn check_node_name(name: &str) -> Result<()> {
    let fine = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
        });
    if fine {
        return Ok(());
    }
    Err(Error::new(
        Kind::Input,
        format!("`{name}` cannot be a node's name"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa};

    fn authority(root: &Path) {
        let pki = root.join("etc/kubernetes/pki");
        fs::create_dir_all(&pki).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        fs::write(
            pki.join("ca.crt"),
            parameters.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        fs::write(pki.join("ca.key"), key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_certificate_says_what_the_signer_decided_whatever_was_asked_for() {
        let root = tempfile::tempdir().unwrap();
        authority(root.path());
        let mut asked = request(root.path(), "evil").unwrap();
        asked.node = "w1".into();
        let signed = sign(root.path(), &asked, 24).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(signed.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(
            certificate.subject().to_string(),
            "O=system:nodes, CN=system:node:w1"
        );
        assert!(!certificate.is_ca());
    }

    #[test]
    fn an_installed_credential_is_whole_and_leaves_no_key_behind() {
        let root = tempfile::tempdir().unwrap();
        authority(root.path());
        assert!(!present(root.path()));
        assert_eq!(membership(root.path()), None);
        let asked = request(root.path(), "w1").unwrap();
        let signed = sign(root.path(), &asked, 24).unwrap();
        install(
            root.path(),
            &signed,
            "demo",
            &Server::Balancer("api.demo.chasi.internal".into()),
        )
        .unwrap();
        assert!(present(root.path()));
        let expected = Membership {
            cluster: "demo".into(),
            node: "w1".into(),
        };
        assert_eq!(membership(root.path()), Some(expected));
        assert!(!key_path(root.path()).exists());
        let current = fs::read_to_string(
            root.path()
                .join("var/lib/kubelet/pki/kubelet-client-current.pem"),
        )
        .unwrap();
        assert!(current.contains("BEGIN CERTIFICATE") && current.contains("PRIVATE KEY"));
        let kubeconfig =
            fs::read_to_string(root.path().join("etc/kubernetes/kubelet.conf")).unwrap();
        assert!(
            kubeconfig.contains("https://api.demo.chasi.internal:6444"),
            "{kubeconfig}"
        );
    }

    #[test]
    fn names_that_could_be_anything_else_are_refused() {
        for name in ["", "a b", "a,O=system:masters", "A", "a/b"] {
            assert!(check_node_name(name).is_err(), "{name}");
        }
        check_node_name("w-1.example").unwrap();
    }
}
