//! Certificates, made anew by each test.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

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
        let chain = CertificateDer::pem_file_iter(&self.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(chain.map(Result::unwrap).collect(), key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
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
        self.sign(name, name, ExtendedKeyUsagePurpose::ServerAuth, 4096)
    }

    /// As [`Authority::server`], but its time is over.
    pub(crate) fn expired(&self, name: &str) -> Identity {
        self.sign(&format!("expired-{name}"), name, ExtendedKeyUsagePurpose::ServerAuth, 2001)
    }

    pub(crate) fn client(&self) -> Identity {
        self.sign("client", "client", ExtendedKeyUsagePurpose::ClientAuth, 4096)
    }

    fn sign(&self, file: &str, name: &str, usage: ExtendedKeyUsagePurpose, until: i32) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.directory.path().join(format!("{file}.{end}"));
        let identity = Identity { certificate: at("pem"), key: at("key") };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}
