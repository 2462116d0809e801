//! TLS between the agents of one run.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::agent::calls::exchange::Credentials;
use crate::error::{Kind, Result, ResultExt};

/// An authority that exists for one run, in the controller's memory.
pub(in crate::agent) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one. Valid at any time, because the clocks of bare hosts are often
    /// wrong; when the run ends nobody knows its key any more.
    pub fn new() -> Result<Authority> {
        let failed = || "cannot make the authority of the run";
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().or_err(Kind::Failed, failed)?;
        let certificate = params.self_signed(&key).or_err(Kind::Failed, failed)?.pem();
        Ok(Authority {
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// Credentials for the agent that others know as `name`, a DNS name.
    pub fn credentials(&self, name: &str) -> Result<Credentials> {
        let failed = || format!("cannot make a certificate for `{name}`");
        let mut params = CertificateParams::new([name.to_owned()]).or_err(Kind::Failed, failed)?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().or_err(Kind::Failed, failed)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .or_err(Kind::Failed, failed)?;
        Ok(Credentials {
            authority: self.certificate.clone(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Both ends of TLS, as one agent has them.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Tls {
    /// Shows these credentials and trusts their authority alone.
    pub fn new(credentials: &Credentials) -> Result<Tls> {
        let failed = || "the credentials for other hosts cannot be used";
        let attempt = || -> Result<Tls, Box<dyn std::error::Error + Send + Sync>> {
            let certificate = vec![CertificateDer::from_pem_slice(
                credentials.certificate.as_bytes(),
            )?];
            let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes())?;
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(
                credentials.authority.as_bytes(),
            )?)?;
            let roots = Arc::new(roots);
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let clients =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                    .build()?;
            let server = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(clients)
                .with_single_cert(certificate.clone(), key.clone_key())?;
            let client = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_client_auth_cert(certificate, key)?;
            Ok(Tls {
                acceptor: Arc::new(server).into(),
                connector: Arc::new(client).into(),
            })
        };
        attempt().or_err(Kind::Failed, failed)
    }

    /// Lets another agent of the run in.
    pub async fn accept(&self, stream: TcpStream) -> Result<server::TlsStream<TcpStream>> {
        let accepted = self.acceptor.accept(stream).await;
        accepted.or_err(Kind::Unreachable, || "a stranger was turned away")
    }

    /// Connects to the agent that is known as `name`.
    pub async fn connect(
        &self,
        name: &str,
        stream: TcpStream,
    ) -> Result<client::TlsStream<TcpStream>> {
        let failed = || format!("`{name}` does not show the certificate of this run");
        let name_in_certificate =
            ServerName::try_from(name.to_owned()).or_err(Kind::Failed, failed)?;
        self.connector
            .connect(name_in_certificate, stream)
            .await
            .or_err(Kind::Unreachable, failed)
    }
}
