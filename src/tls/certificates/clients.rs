//! The rules for the certificates of clients: the authorities, and the certificates that they have revoked.
//!
//! *Owns*: nothing. *Runs on*: any plain thread makes the rules; the threads of the handshakes follow them.

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::pem::{CERTIFICATE, PemFile};
use crate::config::{ClientCertificates, TlsSettings};

/// The label of a list of revoked certificates.
const REVOKED: &str = "X509 CRL";

/// The rules for the certificates of clients.
pub(super) struct ClientRules {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Differs between rules that differ.
    pub(super) digest: Vec<u8>,
}

impl ClientRules {
    /// Reads the rules of the settings.
    ///
    /// # Errors
    /// A sentence that names the file, and what is wrong with it.
    pub(super) fn read(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let mut context = Context::new(&SHA256);
        let authorities = settings.ca_certs.as_deref().filter(|_| settings.cert_reqs != ClientCertificates::None);
        let Some(path) = authorities else {
            let digest = context.finish().as_ref().to_vec();
            return Ok(Self { verifier: WebPkiClientVerifier::no_client_auth(), digest });
        };
        context.update(format!("{:?}", settings.cert_reqs).as_bytes());
        let file = PemFile::read("--ca-certs", path)?;
        let mut roots = RootCertStore::empty();
        for (index, der) in file.all(CERTIFICATE, "certificate")?.into_iter().enumerate() {
            context.update(der);
            roots.add(der.to_vec().into()).map_err(|error| {
                file.wrong(&format!("has a certificate that is no authority, number {}: {error}", index + 1))
            })?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if settings.cert_reqs == ClientCertificates::Optional {
            builder = builder.allow_unauthenticated();
        }
        if let Some(path) = &settings.ssl_crl {
            let file = PemFile::read("--ssl-crl", path)?;
            let lists = file.all(REVOKED, "list of revoked certificates")?;
            for der in &lists {
                context.update(der);
            }
            let lists = lists.into_iter().map(|der| CertificateRevocationListDer::from(der.to_vec()));
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        let verifier = builder.build().map_err(|error| match &settings.ssl_crl {
            None => format!("--ca-certs {} cannot be used: {error}", path.display()),
            Some(path) => format!(
                "--ssl-crl {} cannot be used: {error}. A list has to be of version 2 and have a number (`crlnumber` in \
                 the configuration of `openssl ca`)",
                path.display()
            ),
        })?;
        Ok(Self { verifier, digest: context.finish().as_ref().to_vec() })
    }
}
