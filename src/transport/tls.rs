//! TLS: rustls with ring, passed explicitly and never installed; TLS 1.2 at least; no early data.
//!
//! Trust roots come from `tls.ca_file` alone if it is set, else from the first of the places where systems keep
//! theirs; the environment (`SSL_CERT_FILE`) is not asked. All connections of an engine share one configuration,
//! and with it the cache of sessions to resume.
//!
//! A certificate is judged when a connection is made: one that expires later leaves the connections that there are alone, and they are
//! used up to `pool.max_age`. A resumed session brings no certificate of its own, so that of its first handshake is judged
//! again.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    RootCertStore, SignatureScheme,
};

use crate::config::{self, ConfigError, HttpVersion, TlsSettings};

/// Debian and its kin, Red Hat, its newer layout, SUSE, `OpenELEC`, Alpine and FreeBSD.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

/// Servers with sessions that may be resumed.
const SESSIONS: usize = 256;

/// What all connections of an engine share.
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
    sessions: Arc<ClientSessionMemoryCache>,
}

/// Made once per engine, if a URL is https. The error names the key and the file.
pub(super) fn tls(tls: &TlsSettings, version: HttpVersion) -> Result<Tls, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if tls.verify {
        let roots = roots(tls.ca_file.as_deref(), &SYSTEM_ROOTS)?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| ConfigError::of("tls.ca_file", &error.to_string()))?
    } else {
        Arc::new(AnyCertificate(Arc::clone(&provider)))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| ConfigError::without_key(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier));
    let mut config = match (&tls.client_cert, &tls.client_key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates("tls.client_cert", cert)?, private_key(key)?)
            .map_err(|error| {
                let why = format!("{}: does not go together with tls.client_cert: {error}", key.display());
                ConfigError::of("tls.client_key", &why)
            })?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match version {
        HttpVersion::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        HttpVersion::Http2 => vec![b"h2".to_vec()],
        HttpVersion::Http11 | HttpVersion::H2c => vec![b"http/1.1".to_vec()],
    };
    let sessions = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
    config.resumption = Resumption::store(Arc::clone(&sessions) as _);
    Ok(Tls { config: Arc::new(config), verifier, sessions })
}

impl Tls {
    /// Whether a session was resumed whose certificate would not be taken any more. Then no other of that server is resumed.
    pub(super) fn has_outlived(&self, session: &ClientConnection, name: &ServerName<'static>) -> bool {
        if session.handshake_kind() != Some(HandshakeKind::Resumed) {
            return false;
        }
        let judged = session.peer_certificates().and_then(<[_]>::split_first).map(|(certificate, others)| {
            self.verifier.verify_server_cert(certificate, others, name, &[], UnixTime::now())
        });
        let outlived = !matches!(judged, Some(Ok(_)));
        if outlived {
            while self.sessions.take_tls13_ticket(name).is_some() {}
            self.sessions.remove_tls12_session(name);
        }
        outlived
    }
}

/// The name that the certificate must be for, and that goes out as SNI.
pub(super) fn server_name(tls: &TlsSettings, host: &str) -> Result<ServerName<'static>, String> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| format!("{name} cannot be the name of a TLS server"))
}

fn roots(ca_file: Option<&Path>, system: &[&str]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        for certificate in certificates("tls.ca_file", path)? {
            let fail = |error| ConfigError::of("tls.ca_file", &format!("{}: {error}", path.display()));
            roots.add(certificate).map_err(fail)?;
        }
        return Ok(roots);
    }
    for path in system {
        // A system's bundle may hold certificates that webpki does not like; the others still count.
        if let Ok(found) = certificates("", Path::new(path)) {
            roots.add_parsable_certificates(found);
        }
        if !roots.is_empty() {
            return Ok(roots);
        }
    }
    let why = "not set, and no trusted certificates found on this system; name a file of them";
    Err(ConfigError::of("tls.ca_file", why))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let file = path.display();
    let fail = |why: String| ConfigError::of(key, &why);
    let text = config::pem(path).map_err(|why| fail(format!("{file} cannot be read: {why}")))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| fail(format!("{file}: {error}")))?;
    if found.is_empty() {
        return Err(fail(format!("{file}: no certificate in it (PEM is expected)")));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let file = path.display();
    let fail = |why: String| ConfigError::of("tls.client_key", &why);
    let text = config::pem(path).map_err(|why| fail(format!("{file} cannot be read: {why}")))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => fail(format!(
            "{file}: no unencrypted private key (PEM) in it; openssl pkey -in {file} -out NEW_FILE makes one"
        )),
        other => fail(format!("{file}: {other}")),
    })
}

/// A TLS error in the words of an operator, with what to do.
pub(super) fn explain(error: &Error) -> String {
    let Error::InvalidCertificate(certificate) = error else {
        return match error {
            Error::NoApplicationProtocol => "no HTTP version agreed (ALPN): see http.version".to_owned(),
            Error::AlertReceived(alert) => format!("the backend refused: alert {alert:?}"),
            // What the peer sent was no TLS record: most often plain HTTP.
            Error::InvalidMessage(_) => "the backend does not speak TLS on this port".to_owned(),
            other => other.to_string(),
        };
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate not valid yet: check the clocks".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "unknown issuer: tls.ca_file must hold the authority that signed the certificate, and the backend send those in between"
                .to_owned()
        }
        CertificateError::NotValidForName => "name mismatch: see tls.server_name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut text = format!("name mismatch: certificate is not valid for {}", expected.to_str());
            let _ = match presented.first() {
                Some(first) => write!(text, " (but for {first})"),
                None => write!(text, " (nor for any other: it needs a subjectAltName, its common name does not count)"),
            };
            text
        }
        CertificateError::Revoked => "certificate revoked".to_owned(),
        // webpki's own word, which rustls passes on as it is.
        CertificateError::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
            "the server's own certificate is an authority's (CA:TRUE): make it with basicConstraints=CA:FALSE, or sign one with it"
                .to_owned()
        }
        other => format!("bad certificate: {other}"),
    }
}

/// `tls.verify = off`: any certificate will do, but the peer must hold its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use tempfile::TempDir;

    use super::*;

    const NAME: &str = "auth.example.com";

    fn params(names: &[&str], is_ca: IsCa) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, NAME);
        params.is_ca = is_ca;
        params
    }

    fn self_signed(names: &[&str], is_ca: IsCa) -> Certificate {
        params(names, is_ca).self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    /// What is said of a server that shows `shown` to whoever trusts `trusted`.
    fn said(shown: &Certificate, trusted: &Certificate) -> Result<(), String> {
        let directory = TempDir::new().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, trusted.pem()).unwrap();
        let settings = TlsSettings { ca_file: Some(ca_file), verify: true, ..TlsSettings::default() };
        let name = server_name(&settings, NAME)?;
        let verifier = tls(&settings, HttpVersion::Auto).unwrap().verifier;
        let judged = verifier.verify_server_cert(shown.der(), &[], &name, &[], UnixTime::now());
        judged.map(|_| ()).map_err(|error| explain(&error))
    }

    #[test]
    fn a_servers_certificate_that_is_an_authoritys_is_told_how_to_be_made() {
        let own = self_signed(&[NAME], IsCa::Ca(BasicConstraints::Unconstrained));
        let other = self_signed(&[NAME], IsCa::Ca(BasicConstraints::Unconstrained));
        let advice = "the server's own certificate is an authority's (CA:TRUE): make it with basicConstraints=CA:FALSE, or sign one with it";
        for trusted in [&own, &other] {
            assert_eq!(said(&own, trusted), Err(advice.to_owned()));
        }
        // And the advice helps.
        let made = self_signed(&[NAME], IsCa::ExplicitNoCa);
        assert_eq!(said(&made, &made), Ok(()));
    }

    #[test]
    fn a_certificate_with_a_common_name_alone_is_told_that_it_does_not_count() {
        let key = KeyPair::generate().unwrap();
        let authority = params(&[], IsCa::Ca(BasicConstraints::Unconstrained));
        let trusted = authority.self_signed(&key).unwrap();
        let issuer = Issuer::new(authority, key);
        let sign =
            |names| params(names, IsCa::NoCa).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let mismatch = "name mismatch: certificate is not valid for auth.example.com";
        let advice = format!(
            "{mismatch} (nor for any other: it needs a subjectAltName, its common name does not count)"
        );
        assert_eq!(said(&sign(&[]), &trusted), Err(advice));
        let other = format!("{mismatch} (but for DnsName(\"other.example.com\"))");
        assert_eq!(said(&sign(&["other.example.com"]), &trusted), Err(other));
        assert_eq!(said(&sign(&[NAME]), &trusted), Ok(()));
    }

    #[test]
    fn of_an_unknown_issuer_it_is_said_what_belongs_into_the_file_that_is_set() {
        let mut stranger = params(&[], IsCa::Ca(BasicConstraints::Unconstrained));
        stranger.distinguished_name.push(DnType::CommonName, "another");
        let stranger = stranger.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let advice = "unknown issuer: tls.ca_file must hold the authority that signed the certificate, and the backend send those in between";
        assert_eq!(said(&self_signed(&[NAME], IsCa::ExplicitNoCa), &stranger), Err(advice.to_owned()));
    }

    #[test]
    fn a_key_that_cannot_be_read_is_told_how_to_be_made() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("client.key");
        let key = KeyPair::generate().unwrap();
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for unfit in [encrypted.as_bytes(), &key.serialize_der(), b""] {
            std::fs::write(&path, unfit).unwrap();
            let file = path.display();
            let advice = format!(
                "tls.client_key: {file}: no unencrypted private key (PEM) in it; openssl pkey -in {file} -out NEW_FILE makes one"
            );
            assert_eq!(private_key(&path).unwrap_err().to_string(), advice);
        }
        std::fs::write(&path, key.serialize_pem()).unwrap();
        assert!(private_key(&path).is_ok());
    }
}
