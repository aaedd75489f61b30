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
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    RootCertStore, SignatureScheme,
};

use crate::config::{HttpVersion, TlsSettings};

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
pub(super) fn tls(tls: &TlsSettings, version: HttpVersion) -> Result<Tls, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if tls.verify {
        let roots = roots(tls.ca_file.as_deref(), &SYSTEM_ROOTS)?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("tls.ca_file: {error}"))?
    } else {
        Arc::new(AnyCertificate(Arc::clone(&provider)))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier));
    let mut config = match (&tls.client_cert, &tls.client_key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates("tls.client_cert", cert)?, private_key(key)?)
            .map_err(|error| format!("tls.client_cert and tls.client_key do not go together: {error}"))?,
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

fn roots(ca_file: Option<&Path>, system: &[&str]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        for certificate in certificates("tls.ca_file", path)? {
            roots.add(certificate).map_err(|error| format!("tls.ca_file {}: {error}", path.display()))?;
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
    Err("no trusted certificates found on this system: set tls.ca_file".to_owned())
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| format!("{key} {}: {error}", path.display()))?;
    if found.is_empty() {
        return Err(format!("{key} {}: no certificate in it (PEM is expected)", path.display()));
    }
    Ok(found)
}

fn private_key(path: &PathBuf) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| format!("tls.client_key {}: {error}", path.display()))
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
        CertificateError::UnknownIssuer => "unknown issuer: set tls.ca_file".to_owned(),
        CertificateError::NotValidForName => "name mismatch: see tls.server_name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut text = format!("name mismatch: certificate is not valid for {}", expected.to_str());
            if let Some(first) = presented.first() {
                let _ = write!(text, " (but for {first})");
            }
            text
        }
        CertificateError::Revoked => "certificate revoked".to_owned(),
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
