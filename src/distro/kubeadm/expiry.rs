//! When the certificates of a host end, wherever kubeadm, kubelet and chasi keep them.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, ResultExt};

/// How many certificates are told at most; a host has about twenty.
const MOST: usize = 200;
/// No file with certificates is larger, in bytes.
const LARGEST: u64 = 1 << 20;

/// The longest subject that is told, in characters.
const LONGEST_SUBJECT: usize = 500;

/// Kubeconfigs with a client certificate in them.
const KUBECONFIGS: [&str; 5] = [
    "etc/kubernetes/admin.conf",
    "etc/kubernetes/super-admin.conf",
    "etc/kubernetes/controller-manager.conf",
    "etc/kubernetes/scheduler.conf",
    "etc/kubernetes/kubelet.conf",
];
/// Directories of certificates.
const DIRECTORIES: [&str; 2] = ["etc/kubernetes/pki", "etc/kubernetes/pki/etcd"];
/// kubelet's client certificate, which it renews itself.
const KUBELET: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";

/// A certificate of a host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Expiry {
    /// The file that it is in.
    pub path: String,
    /// Whom it names, as in `O=system:masters, CN=admin`; empty when that cannot be read.
    pub subject: String,
    /// When it ends, in seconds since 1970; or why that cannot be read.
    pub ends: std::result::Result<i64, String>,
}

/// All certificates of the host whose root directory is `root`.
pub fn expiries(root: &Path) -> Vec<Expiry> {
    let mut found = Vec::new();
    for directory in DIRECTORIES {
        let Ok(entries) = std::fs::read_dir(root.join(directory)) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
            .collect();
        paths.sort();
        found.extend(
            paths
                .into_iter()
                .map(|path| expiry(root, &path, read(&path))),
        );
    }
    for name in KUBECONFIGS {
        let path = root.join(name);
        if path.is_file()
            && let Some(pem) = of_kubeconfig(&path).transpose()
        {
            found.push(expiry(root, &path, pem));
        }
    }
    let kubelet = root.join(KUBELET);
    if kubelet.exists() {
        found.push(expiry(root, &kubelet, read(&kubelet)));
    }
    found.truncate(MOST);
    found
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let cannot = || format!("cannot read `{}`", path.display());
    let file = std::fs::File::open(path).or_err(Kind::System, cannot)?;
    let mut bytes = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut bytes)
        .or_err(Kind::System, cannot)?;
    Ok(bytes)
}

/// The client certificate in a kubeconfig; none where it names a file, which has been
/// looked at then.
fn of_kubeconfig(path: &Path) -> Result<Option<Vec<u8>>> {
    let cannot = || format!("`{}` cannot be understood", path.display());
    let text = String::from_utf8(read(path)?).or_err(Kind::Failed, cannot)?;
    let kubeconfig: serde_json::Value =
        serde_saphyr::from_str(&text).or_err(Kind::Failed, cannot)?;
    let Some(data) = kubeconfig["users"][0]["user"]["client-certificate-data"].as_str() else {
        return Ok(None);
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(data.trim());
    decoded.or_err(Kind::Failed, cannot).map(Some)
}

fn expiry(root: &Path, path: &Path, pem: Result<Vec<u8>>) -> Expiry {
    let shown = Path::new("/").join(path.strip_prefix(root).unwrap_or(path));
    let first = pem.and_then(|pem| first_end(&pem));
    let (ends, subject) = match first {
        Ok((ends, subject)) => (Ok(ends), subject),
        Err(error) => (Err(error.to_string()), String::new()),
    };
    Expiry {
        path: shown.display().to_string(),
        subject,
        ends,
    }
}

/// When the first certificate in a PEM text that ends, ends; and whom it names.
fn first_end(pem: &[u8]) -> Result<(i64, String)> {
    let mut first: Option<(i64, String)> = None;
    for block in x509_parser::pem::Pem::iter_from_buffer(pem) {
        let not_pem = || "it is not PEM";
        let block = block.or_err(Kind::Failed, not_pem)?;
        if block.label != "CERTIFICATE" {
            continue;
        }
        let certificate = block
            .parse_x509()
            .or_err(Kind::Failed, || "a certificate in it cannot be read")?;
        let ends = certificate.validity().not_after.timestamp();
        if first.as_ref().is_none_or(|(before, _)| ends < *before) {
            let subject = certificate.subject().to_string();
            let subject = subject.chars().filter(|c| !c.is_control());
            first = Some((ends, subject.take(LONGEST_SUBJECT).collect()));
        }
    }
    first.ok_or_else(|| Error::new(Kind::Failed, "there is no certificate in it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn pem(year: i32) -> String {
        let mut parameters = CertificateParams::default();
        parameters.not_after = date_time_ymd(year, 7, 1);
        let key = KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn every_place_is_looked_at_and_what_cannot_be_read_is_told() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        // Two in one file: the one that ends first decides.
        write(
            "etc/kubernetes/pki/apiserver.crt",
            &(pem(2040) + &pem(2030)),
        );
        write("etc/kubernetes/pki/etcd/server.crt", "rubbish");
        write("etc/kubernetes/pki/apiserver.key", "a key");
        let data = base64::engine::general_purpose::STANDARD.encode(pem(2031));
        let user = format!("users: [{{name: a, user: {{client-certificate-data: {data}}}}}]\n");
        write("etc/kubernetes/admin.conf", &user);
        let file = "users: [{name: a, user: {client-certificate: /x}}]\n";
        write("etc/kubernetes/kubelet.conf", file);
        write(KUBELET, &pem(2032));
        let found = expiries(root.path());
        let year = |ends: &i64| 1970 + ends / 31_556_952;
        let shown: Vec<_> = found
            .iter()
            .map(|one| (one.path.as_str(), one.ends.as_ref().ok().map(year)))
            .collect();
        assert_eq!(
            shown,
            [
                ("/etc/kubernetes/pki/apiserver.crt", Some(2030)),
                ("/etc/kubernetes/pki/etcd/server.crt", None),
                ("/etc/kubernetes/admin.conf", Some(2031)),
                (
                    "/var/lib/kubelet/pki/kubelet-client-current.pem",
                    Some(2032)
                ),
            ]
        );
    }
}
