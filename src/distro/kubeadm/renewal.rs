//! Certificates of a control plane signed anew: with the names and the uses that they
//! have, for the keys that they have. So each is one file that is replaced in one step,
//! and nothing that was cut leaves a certificate beside another key.
//!
//! The API server and etcd read theirs again by themselves, at the next connection; who
//! has its certificate within its kubeconfig is started again by whoever renews it.
//! kubelet's is a [`credential`](super::credential); authorities are not renewed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// Certificates below `/etc/kubernetes/pki`, and who signs them.
const LEAVES: [(&str, &str); 7] = [
    ("apiserver", "ca"),
    ("apiserver-kubelet-client", "ca"),
    ("apiserver-etcd-client", "etcd/ca"),
    ("front-proxy-client", "front-proxy-ca"),
    ("etcd/server", "etcd/ca"),
    ("etcd/peer", "etcd/ca"),
    ("etcd/healthcheck-client", "etcd/ca"),
];
/// Kubeconfigs with a certificate in them, and the processes that read them only when
/// they start.
const KUBECONFIGS: [(&str, Option<&str>); 4] = [
    ("admin.conf", None),
    ("super-admin.conf", None),
    ("controller-manager.conf", Some("kube-controller-manager")),
    ("scheduler.conf", Some("kube-scheduler")),
];
/// Clocks of a site may be minutes apart.
const EARLIER: Duration = Duration::from_secs(300);

/// What was renewed on a host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Renewed {
    /// The files.
    pub paths: Vec<String>,
    /// The processes that have to be started again.
    pub restarts: Vec<&'static str>,
}

/// Whether a file is one that is renewed here.
pub fn is_renewed(path: &str) -> bool {
    let Some(name) = path.strip_prefix("/etc/kubernetes/") else {
        return false;
    };
    let of_leaf = |(leaf, _): &(&str, &str)| name == format!("pki/{leaf}.crt");
    LEAVES.iter().any(of_leaf) || KUBECONFIGS.iter().any(|(config, _)| *config == name)
}

/// Renews those that end before a time, in seconds since 1970, and makes them valid for
/// `hours` from now.
pub fn renew(root: &Path, before: i64, hours: u32) -> Result<Renewed> {
    let kubernetes = root.join("etc/kubernetes");
    let mut renewed = Renewed::default();
    let mut note = |path: &Path| {
        let shown = Path::new("/").join(path.strip_prefix(root).unwrap_or(path));
        renewed.paths.push(shown.display().to_string());
    };
    for (name, authority) in LEAVES {
        let path = kubernetes.join(format!("pki/{name}.crt"));
        let Some(old) = read_if_there(&path)? else {
            continue;
        };
        if !ends_before(&old, before).map_err(|error| of(&path, error))? {
            continue;
        }
        let key = read(&kubernetes.join(format!("pki/{name}.key")))?;
        let new = anew(&kubernetes, authority, &old, &key, hours);
        file::write(
            &path,
            new.map_err(|error| of(&path, error))?.as_bytes(),
            0o644,
        )?;
        note(&path);
    }
    let mut restarts = Vec::new();
    for (name, process) in KUBECONFIGS {
        let path = kubernetes.join(name);
        let Some(text) = read_if_there(&path)? else {
            continue;
        };
        let new = kubeconfig(&kubernetes, &text, before, hours);
        if let Some(new) = new.map_err(|error| of(&path, error))? {
            let mode = fs::metadata(&path)
                .or_err(Kind::System, || {
                    format!("cannot look at `{}`", path.display())
                })?
                .permissions()
                .mode();
            file::write(&path, new.as_bytes(), mode & 0o7777)?;
            note(&path);
            restarts.extend(process);
        }
    }
    renewed.restarts = restarts;
    Ok(renewed)
}

fn of(path: &Path, cause: Error) -> Error {
    Error::new(cause.kind(), format!("cannot renew `{}`", path.display())).because(cause)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).or_err(Kind::System, || format!("cannot read `{}`", path.display()))
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match path.exists() {
        true => read(path).map(Some),
        false => Ok(None),
    }
}

fn parsed<T>(pem: &str, work: impl FnOnce(&X509Certificate) -> Result<T>) -> Result<T> {
    let problem = || "the certificate cannot be read";
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).or_err(Kind::Failed, problem)?;
    work(&pem.parse_x509().or_err(Kind::Failed, problem)?)
}

fn ends_before(pem: &str, before: i64) -> Result<bool> {
    parsed(pem, |certificate| {
        Ok(certificate.validity().not_after.timestamp() < before)
    })
}

/// A kubeconfig with its certificate signed anew, if that ends before the time.
fn kubeconfig(kubernetes: &Path, text: &str, before: i64, hours: u32) -> Result<Option<String>> {
    let problem = || "the kubeconfig cannot be understood";
    let config: serde_json::Value = serde_saphyr::from_str(text).or_err(Kind::Failed, problem)?;
    let user = &config["users"][0]["user"];
    let field = |name: &str| {
        let data = user[name].as_str()?;
        String::from_utf8(STANDARD.decode(data.trim()).ok()?).ok()
    };
    let (Some(old), Some(key)) = (field("client-certificate-data"), field("client-key-data"))
    else {
        return Ok(None);
    };
    if !ends_before(&old, before)? {
        return Ok(None);
    }
    let new = anew(kubernetes, "ca", &old, &key, hours)?;
    let was = user["client-certificate-data"].as_str().unwrap_or_default();
    // Everything else in the text stays as it is.
    match text.matches(was).count() {
        1 => Ok(Some(text.replace(was, &STANDARD.encode(new)))),
        _ => Err(Error::new(Kind::Failed, problem())),
    }
}

/// The same certificate for the same key, signed now.
fn anew(kubernetes: &Path, authority: &str, old: &str, key: &str, hours: u32) -> Result<String> {
    let problem = || "the certificate cannot be signed";
    let pki = kubernetes.join("pki");
    let signer = read(&pki.join(format!("{authority}.key")))?;
    let signer = KeyPair::from_pem(&signer).or_err(Kind::Failed, problem)?;
    let authority = read(&pki.join(format!("{authority}.crt")))?;
    let ends = parsed(&authority, |ca| Ok(ca.validity().not_after.timestamp()))?;
    let issuer = Issuer::from_ca_cert_pem(&authority, signer).or_err(Kind::Failed, problem)?;
    let key = KeyPair::from_pem(key).or_err(Kind::Failed, problem)?;
    let mut parameters = parsed(old, parameters)?;
    let now = SystemTime::now();
    let wanted = now + Duration::from_secs(u64::from(hours) * 3600);
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(ends.max(0).unsigned_abs());
    parameters.not_before = (now - EARLIER).into();
    // One that outlives who signed it is worth nothing longer.
    parameters.not_after = wanted.min(last).into();
    let certificate = parameters.signed_by(&key, &issuer);
    Ok(certificate.or_err(Kind::Failed, problem)?.pem())
}

/// What a certificate says, to be said again.
fn parameters(old: &X509Certificate) -> Result<CertificateParams> {
    let strange = |what: &str| {
        Error::new(
            Kind::Failed,
            format!("the certificate has {what} that chasi does not know"),
        )
    };
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    for attribute in old.subject().iter_attributes() {
        let value = attribute.as_str().map_err(|_| strange("a name"))?;
        let kind = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => DnType::CommonName,
            "2.5.4.10" => DnType::OrganizationName,
            _ => return Err(strange("a name")),
        };
        parameters.distinguished_name.push(kind, value);
    }
    parameters.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    parameters.use_authority_key_identifier_extension = true;
    let uses = old
        .extended_key_usage()
        .or_err(Kind::Failed, || "the certificate's uses cannot be read")?;
    if let Some(uses) = uses {
        if uses.value.server_auth {
            parameters
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if uses.value.client_auth {
            parameters
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
    }
    let names = old
        .subject_alternative_name()
        .or_err(Kind::Failed, || "the certificate's names cannot be read")?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        parameters.subject_alt_names.push(match name {
            GeneralName::DNSName(name) => {
                SanType::DnsName((*name).try_into().map_err(|_| strange("a name"))?)
            }
            GeneralName::IPAddress(bytes) => {
                SanType::IpAddress(address(bytes).ok_or_else(|| strange("an address"))?)
            }
            _ => return Err(strange("a name")),
        });
    }
    Ok(parameters)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(bytes), _) => Some(Ipv4Addr::from(bytes).into()),
        (_, Ok(bytes)) => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa, date_time_ymd};

    /// An authority, a server's certificate and a kubeconfig that end in 2030.
    fn site(root: &Path) {
        let pki = root.join("etc/kubernetes/pki/etcd");
        fs::create_dir_all(&pki).unwrap();
        let pki = root.join("etc/kubernetes/pki");
        let signer = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.not_after = date_time_ymd(2060, 1, 1);
        fs::write(pki.join("ca.key"), signer.serialize_pem()).unwrap();
        let certificate = authority.self_signed(&signer).unwrap().pem();
        fs::write(pki.join("ca.crt"), &certificate).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&certificate, signer).unwrap();
        let mut leaf = CertificateParams::new(vec!["a.example".into(), "10.0.0.1".into()]).unwrap();
        leaf.not_after = date_time_ymd(2030, 1, 1);
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(DnType::OrganizationName, "o");
        leaf.distinguished_name.push(DnType::CommonName, "n");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let signed = leaf.signed_by(&key, &issuer).unwrap().pem();
        fs::write(pki.join("apiserver.key"), key.serialize_pem()).unwrap();
        fs::write(pki.join("apiserver.crt"), &signed).unwrap();
        let text = format!(
            "# mine\nusers:\n- name: a\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(&signed),
            STANDARD.encode(key.serialize_pem())
        );
        fs::write(root.join("etc/kubernetes/scheduler.conf"), text).unwrap();
    }

    const IN_2029: i64 = 1_861_920_000;
    const IN_2031: i64 = 1_924_992_000;

    #[test]
    fn only_what_ends_is_signed_anew_and_says_the_same_for_the_same_key() {
        let root = tempfile::tempdir().unwrap();
        site(root.path());
        let crt = root.path().join("etc/kubernetes/pki/apiserver.crt");
        let conf = root.path().join("etc/kubernetes/scheduler.conf");
        let old = fs::read_to_string(&crt).unwrap();
        let nothing = renew(root.path(), IN_2029, 24).unwrap();
        assert_eq!(nothing, Renewed::default());
        assert_eq!(fs::read_to_string(&crt).unwrap(), old);

        let renewed = renew(root.path(), IN_2031, 24 * 365 * 10).unwrap();
        assert_eq!(
            renewed.paths,
            [
                "/etc/kubernetes/pki/apiserver.crt",
                "/etc/kubernetes/scheduler.conf"
            ]
        );
        assert_eq!(renewed.restarts, ["kube-scheduler"]);
        let new = fs::read_to_string(&crt).unwrap();
        let said = |pem: &str| {
            parsed(pem, |one| {
                Ok((
                    one.subject().to_string(),
                    format!(
                        "{:?}",
                        one.subject_alternative_name().unwrap().unwrap().value
                    ),
                    format!("{:?}", one.extended_key_usage().unwrap().unwrap().value),
                    one.public_key().raw.to_vec(),
                ))
            })
            .unwrap()
        };
        assert_ne!(new, old);
        assert_eq!(said(&new), said(&old));
        assert!(!ends_before(&new, IN_2031).unwrap());
        let text = fs::read_to_string(&conf).unwrap();
        assert!(text.starts_with("# mine\nusers:\n"));
        assert_eq!(renew(root.path(), IN_2031, 24).unwrap(), Renewed::default());
    }

    #[test]
    fn nothing_outlives_who_signed_it() {
        let root = tempfile::tempdir().unwrap();
        site(root.path());
        renew(root.path(), IN_2031, 24 * 365 * 100).unwrap();
        let new = fs::read_to_string(root.path().join("etc/kubernetes/pki/apiserver.crt")).unwrap();
        let in_2060 = 2_840_140_800 + 1;
        assert!(ends_before(&new, in_2060).unwrap());
    }

    #[test]
    fn what_is_renewed_is_known_by_its_path() {
        for (path, expected) in [
            ("/etc/kubernetes/pki/etcd/peer.crt", true),
            ("/etc/kubernetes/admin.conf", true),
            ("/etc/kubernetes/pki/ca.crt", false),
            ("/var/lib/kubelet/pki/kubelet-client-current.pem", false),
        ] {
            assert_eq!(is_renewed(path), expected, "{path}");
        }
    }
}
