//! Certificates, made anew by each test.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tempfile::TempDir;

/// From 1 January 1970; in the year 4096.
const FAR: Duration = Duration::from_secs(67_090_000_000);

/// A private authority; what it signs lies in its directory.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

/// Files in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Identity {
    /// Of a server in this process, which offers these protocols by ALPN.
    pub(crate) fn server_config(&self, protocols: &[&str]) -> Arc<rustls::ServerConfig> {
        let (shown, versions) = (Shown::new(self), rustls::ALL_VERSIONS);
        let mut config = shown.server_config(versions);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// What a server of this process shows; it may be changed while it runs.
#[derive(Debug)]
pub(crate) struct Shown(Mutex<Arc<CertifiedKey>>);

impl Shown {
    pub(crate) fn new(identity: &Identity) -> Arc<Self> {
        Arc::new(Self(Mutex::new(certified(identity))))
    }

    pub(crate) fn change(&self, identity: &Identity) {
        *self.0.lock() = certified(identity);
    }

    pub(crate) fn server_config(
        self: &Arc<Self>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(versions).unwrap().with_no_client_auth();
        config.with_cert_resolver(Arc::clone(self) as _)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock()))
    }
}

fn certified(identity: &Identity) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_file_iter(&identity.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(chain.map(Result::unwrap).collect(), key))
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), directory }
    }

    /// The authority's own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The same, for `tls.ca_file`.
    pub(crate) fn trust(&self) -> String {
        self.file().to_str().unwrap().to_owned()
    }

    /// For a server of this name or address.
    pub(crate) fn server(&self, name: &str) -> Identity {
        self.sign(name, name, ExtendedKeyUsagePurpose::ServerAuth, FAR)
    }

    /// As [`Authority::server`], for a time that is over at a full second from 1 January 1970.
    pub(crate) fn server_until(&self, name: &str, end: Duration) -> Identity {
        self.sign(&format!("short-{name}"), name, ExtendedKeyUsagePurpose::ServerAuth, end)
    }

    /// As [`Authority::server`], but its time is over.
    pub(crate) fn expired(&self, name: &str) -> Identity {
        self.sign(
            &format!("expired-{name}"),
            name,
            ExtendedKeyUsagePurpose::ServerAuth,
            Duration::from_secs(1_000_000_000),
        )
    }

    pub(crate) fn client(&self) -> Identity {
        self.sign("client", "client", ExtendedKeyUsagePurpose::ClientAuth, FAR)
    }

    fn sign(&self, file: &str, name: &str, usage: ExtendedKeyUsagePurpose, until: Duration) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(1970, 1, 1) + until;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.directory.path().join(format!("{file}.{end}"));
        let identity = Identity { certificate: at("pem"), key: at("key") };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}
