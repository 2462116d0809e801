//! Whom the service believes to be an API server of this cluster, and as whom it
//! speaks to one: the cluster's CA and the kubelet's own certificate, both as
//! kubeadm and kubelet keep them.
//!
//! Both are read again when their files change: certificates rotate. Nothing of a
//! key ever gets into an error or a log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::node::stamp::Stamp;

/// The name that every API server's certificate has, whatever its address:
/// kubeadm and k3s both put it there, for pods.
const NAME: &str = "kubernetes";

/// No certificate or kubeconfig is larger, in bytes.
const LARGEST: u64 = 1 << 20;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate of the cluster's CA.
    pub ca: PathBuf,
    /// The kubelet's kubeconfig, for its client certificate.
    pub kubeconfig: PathBuf,
}

/// The material of TLS, as it stands in the files.
#[derive(Debug)]
pub struct Trust {
    files: Files,
    anonymous: Mutex<Option<(Stamp, Arc<ClientConfig>)>>,
}

impl Trust {
    /// Nothing is read yet.
    pub fn new(files: Files) -> Self {
        Trust {
            files,
            anonymous: Mutex::new(None),
        }
    }

    /// The name to expect in a server's certificate.
    pub fn server_name() -> Result<ServerName<'static>> {
        ServerName::try_from(NAME).or_err(Kind::Failed, || "the API server's name is not one")
    }

    /// For speaking to a server without saying who we are. `None` when the cluster
    /// has no CA on this host yet.
    pub fn anonymous(&self) -> Result<Option<Arc<ClientConfig>>> {
        let Some(stamp) = Stamp::of(&self.files.ca) else {
            return Ok(None);
        };
        let mut known = self
            .anonymous
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = known.as_ref().filter(|(read, _)| *read == stamp) {
            return Ok(Some(config.clone()));
        }
        let config = Arc::new(self.builder()?.with_no_client_auth());
        *known = Some((stamp, config.clone()));
        Ok(Some(config))
    }

    /// For speaking to a server as this node. `None` when the host has no CA or no
    /// kubeconfig yet.
    pub fn as_node(&self) -> Result<Option<Arc<ClientConfig>>> {
        if Stamp::of(&self.files.ca).is_none() || Stamp::of(&self.files.kubeconfig).is_none() {
            return Ok(None);
        }
        let (certificates, key) = identity(&self.files.kubeconfig)?;
        let config = self
            .builder()?
            .with_client_auth_cert(certificates, key)
            .or_err(
                Kind::Input,
                || "the kubelet's certificate and key do not fit together",
            )?;
        Ok(Some(Arc::new(config)))
    }

    fn builder(
        &self,
    ) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&read(&self.files.ca)?, &self.files.ca)? {
            roots.add(certificate).or_err(Kind::Input, || {
                format!(
                    "`{}` holds a certificate that is not one of a CA",
                    self.files.ca.display()
                )
            })?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .or_err(Kind::Failed, || "TLS is not available")?;
        Ok(builder.with_root_certificates(roots))
    }
}

/// The part of a kubeconfig that says who one is. Fields of no interest here are
/// another program's affair.
#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(default)]
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    user: Credential,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Credential {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

/// The certificates and the key of the first user of a kubeconfig.
fn identity(path: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let refuse = |what: &str| Error::new(Kind::Input, format!("`{}` {what}", path.display()));
    let text = String::from_utf8(read(path)?).map_err(|_| refuse("is not text"))?;
    // The parser's own error would quote the file, and the file may hold a key.
    let kubeconfig: Kubeconfig =
        serde_saphyr::from_str(&text).map_err(|_| refuse("is not a kubeconfig"))?;
    let credential = kubeconfig
        .users
        .into_iter()
        .next()
        .ok_or_else(|| refuse("names no user"))?
        .user;
    let part = |file: &Option<PathBuf>, data: &Option<String>, what: &str| match (data, file) {
        (Some(data), _) => BASE64
            .decode(data)
            .map_err(|_| refuse(&format!("has a {what} that is not base64"))),
        // A relative path is relative to the kubeconfig.
        (None, Some(file)) => read(&path.parent().unwrap_or(Path::new("/")).join(file)),
        (None, None) => Err(refuse(&format!("has no {what}"))),
    };
    let certificate = part(
        &credential.client_certificate,
        &credential.client_certificate_data,
        "client certificate",
    )?;
    let key = part(
        &credential.client_key,
        &credential.client_key_data,
        "client key",
    )?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| refuse("leads to no private key"))?;
    Ok((certificates(&certificate, path)?, key))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::new(Kind::Input, format!("`{}` is damaged", path.display())))?;
    if found.is_empty() {
        return Err(Error::new(
            Kind::Input,
            format!("`{}` leads to no certificate", path.display()),
        ));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let attempt = || -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        std::fs::File::open(path)?
            .take(LARGEST)
            .read_to_end(&mut content)?;
        Ok(content)
    };
    attempt().or_err(Kind::System, || format!("cannot read `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    struct Material {
        directory: tempfile::TempDir,
        certificate: String,
        key: String,
    }

    fn material() -> Material {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        fs::write(directory.path().join("ca.crt"), ca.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["node".to_owned()])
            .unwrap()
            .signed_by(&key, &Issuer::from_params(&params, &ca_key))
            .unwrap();
        Material {
            directory,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    impl Material {
        fn trust(&self, kubeconfig: &str) -> Trust {
            fs::write(self.directory.path().join("kubelet.conf"), kubeconfig).unwrap();
            Trust::new(Files {
                ca: self.directory.path().join("ca.crt"),
                kubeconfig: self.directory.path().join("kubelet.conf"),
            })
        }
    }

    #[test]
    fn the_kubelets_rotating_certificate_is_used() {
        let material = material();
        // kubelet keeps both in one file, and kubeadm's kubeconfig names it twice.
        let both = format!("{}{}", material.certificate, material.key);
        fs::write(material.directory.path().join("current.pem"), both).unwrap();
        let trust = material.trust(
            "apiVersion: v1\nkind: Config\nusers:\n- name: x\n  user:\n    client-certificate: current.pem\n    client-key: current.pem\n",
        );
        assert!(trust.as_node().unwrap().is_some());
    }

    #[test]
    fn a_certificate_in_the_kubeconfig_itself_is_used() {
        let material = material();
        let trust = material.trust(&format!(
            "users:\n- name: x\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            BASE64.encode(&material.certificate),
            BASE64.encode(&material.key)
        ));
        assert!(trust.as_node().unwrap().is_some());
    }

    #[test]
    fn before_the_host_joins_there_is_nobody_to_be() {
        let material = material();
        let trust = material.trust("users: []");
        fs::remove_file(material.directory.path().join("kubelet.conf")).unwrap();
        assert!(trust.as_node().unwrap().is_none());
        assert!(trust.anonymous().unwrap().is_some());
        fs::remove_file(material.directory.path().join("ca.crt")).unwrap();
        assert!(trust.anonymous().unwrap().is_none());
    }

    #[test]
    fn a_new_ca_is_read() {
        let material = material();
        let trust = material.trust("users: []");
        let first = trust.anonymous().unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &trust.anonymous().unwrap().unwrap()));
        let other = self::material();
        let pem = fs::read(other.directory.path().join("ca.crt")).unwrap();
        crate::file::write(&material.directory.path().join("ca.crt"), &pem, 0o644).unwrap();
        assert!(!Arc::ptr_eq(&first, &trust.anonymous().unwrap().unwrap()));
    }

    #[test]
    fn no_error_quotes_a_key() {
        let material = material();
        let secret = "c2VjcmV0c2VjcmV0";
        for kubeconfig in [
            format!(
                "users:\n- user:\n    client-certificate-data: e30=\n    client-key-data: {secret}\n"
            ),
            format!("users:\n- user:\n    client-key-data: {secret}\n"),
            format!("users:\n- user:\n    client-key-data: [{secret}]\n"),
            format!("users:\n- user:\n  client-key-data: {secret}: {secret}\n   x"),
            format!("users:\n- user:\n    client-certificate-data: '!{secret}'\n"),
            "users: []".to_owned(),
            "\0".to_owned(),
        ] {
            let error = material.trust(&kubeconfig).as_node().unwrap_err();
            let told = format!(
                "{error:?} {error} {:?}",
                error.causes().map(ToString::to_string).collect::<Vec<_>>()
            );
            assert!(!told.contains(secret), "{told}");
            assert!(told.contains("kubelet.conf"), "{told}");
        }
    }
}
