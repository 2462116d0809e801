//! The API server's own certificate: what it says, and making it say something
//! else while the server runs.
//!
//! kube-apiserver looks at its certificate every minute and when the file changes
//! (`dynamic_serving_content.go`), so nothing is restarted. The key stays: one file
//! is replaced, and there is no moment in which key and certificate do not fit.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::prelude::GeneralName;

use super::super::{Cluster, Host};
use super::config;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// The common name that kubeadm gives it.
const NAME: &str = "kube-apiserver";

/// Every name and address that belongs into the certificate of a host's API server:
/// those of the configuration, and those that kubeadm adds (`GetAPIServerAltNames`
/// in cmd/kubeadm/app/util/pkiutil).
pub fn wanted(cluster: &Cluster, host: &Host) -> BTreeSet<String> {
    let own = [
        host.name.clone(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{}", cluster.dns_domain),
        host.node_ip().to_string(),
        cluster.endpoint(),
    ];
    let service = cluster.service_cidrs.first().and_then(|cidr| first(cidr));
    config::certificate_names(cluster, host)
        .into_iter()
        .chain(own)
        .chain(service)
        .map(|name| normal(&name))
        .collect()
}

/// The first address of a network, which is that of the Service `kubernetes`.
fn first(cidr: &str) -> Option<String> {
    let network: IpAddr = cidr.split('/').next()?.parse().ok()?;
    Some(match network {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).checked_add(1)?).to_string(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).checked_add(1)?).to_string(),
    })
}

/// One way to write each name and address.
fn normal(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_lowercase(),
    }
}

/// The names and addresses in the certificate on this host; `None` when there is
/// none that can be read.
pub fn names(root: &Path) -> Option<BTreeSet<String>> {
    let text = fs::read(root.join("etc/kubernetes/pki/apiserver.crt")).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let name = |general: &GeneralName| match general {
        GeneralName::DNSName(name) => Some(normal(name)),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    };
    Some(names.value.general_names.iter().filter_map(name).collect())
}

fn address(bytes: &[u8]) -> Option<String> {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(bytes), _) => Some(Ipv4Addr::from(bytes).to_string()),
        (_, Ok(bytes)) => Some(Ipv6Addr::from(bytes).to_string()),
        _ => None,
    }
}

/// Signs the certificate anew, for the key that is there, valid for `hours`.
pub fn sign(root: &Path, names: &BTreeSet<String>, hours: u32) -> Result<()> {
    let problem = || "cannot sign the API server's certificate";
    let pki = root.join("etc/kubernetes/pki");
    let read = |name: &str| {
        let path = pki.join(name);
        fs::read_to_string(&path)
            .or_err(Kind::System, || format!("cannot read `{}`", path.display()))
    };
    let authority = KeyPair::from_pem(&read("ca.key")?).or_err(Kind::Failed, problem)?;
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt")?, authority);
    let issuer = issuer.or_err(Kind::Failed, problem)?;
    let key = KeyPair::from_pem(&read("apiserver.key")?).or_err(Kind::Failed, problem)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, NAME);
    parameters.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    for name in names {
        parameters.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|cause| {
                Error::new(Kind::Input, format!("`{name}` cannot be in a certificate"))
                    .because(format!("{cause}"))
            })?),
        });
    }
    // As for kubelets: clocks of a fresh site may be minutes apart.
    let now = std::time::SystemTime::now();
    parameters.not_before = (now - std::time::Duration::from_secs(300)).into();
    parameters.not_after = (now + std::time::Duration::from_secs(u64::from(hours) * 3600)).into();
    let certificate = parameters
        .signed_by(&key, &issuer)
        .or_err(Kind::Failed, problem)?;
    file::write(
        &pki.join("apiserver.crt"),
        certificate.pem().as_bytes(),
        0o644,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa};

    #[test]
    fn a_certificate_that_is_signed_anew_says_the_new_names_for_the_same_key() {
        let root = tempfile::tempdir().unwrap();
        let pki = root.path().join("etc/kubernetes/pki");
        fs::create_dir_all(&pki).unwrap();
        let authority = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&authority).unwrap();
        fs::write(pki.join("ca.crt"), certificate.pem()).unwrap();
        fs::write(pki.join("ca.key"), authority.serialize_pem()).unwrap();
        let key = KeyPair::generate().unwrap().serialize_pem();
        fs::write(pki.join("apiserver.key"), &key).unwrap();
        assert_eq!(names(root.path()), None);
        let wanted: BTreeSet<String> = ["kubernetes", "10.96.0.1", "fd00::1"]
            .map(str::to_owned)
            .into();
        sign(root.path(), &wanted, 24).unwrap();
        assert_eq!(names(root.path()), Some(wanted));
        assert_eq!(fs::read_to_string(pki.join("apiserver.key")).unwrap(), key);
    }

    #[test]
    fn what_kubeadm_puts_into_it_is_wanted() {
        let cluster = config::tests::cluster();
        let host = config::tests::host();
        let wanted = wanted(&cluster, &host);
        for name in [
            "kubernetes",
            "kubernetes.default.svc",
            "localhost",
            "127.0.0.1",
            "10.96.0.1",
        ] {
            assert!(wanted.contains(name), "{name} in {wanted:?}");
        }
        assert!(wanted.contains(&host.name) && wanted.contains(&cluster.endpoint()));
    }
}
