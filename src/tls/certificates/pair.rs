//! A certificate with its chain, its key and its OCSP response, from their files.
//!
//! *Owns*: nothing. *Runs on*: any plain thread. *Invariants*: the key of a pair fits its first certificate, and each
//! certificate of the chain has issued the one before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::key::key_in;
use super::pem::{CERTIFICATE, PemFile, read_bounded};
use crate::sys;

/// The ending of the file with the OCSP response, beside the certificate, as with `HAProxy`.
const STAPLE_ENDING: &str = ".ocsp";
/// An OCSP response begins with a sequence, in which the status is `successful`: ENUMERATED 0 (RFC 6960 §4.2.1).
const SUCCESSFUL: [u8; 3] = [0x0a, 0x01, 0x00];
/// `commonName`
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// A certificate and what belongs to it.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    /// The names of hosts that it is for, in lower case. `*.example.com` is a wildcard.
    pub(super) names: Vec<String>,
    /// The file of the certificate, and when it expires.
    pub(super) path: PathBuf,
    pub(super) expires: SystemTime,
}

impl Pair {
    /// Reads a pair. `key` is `None` if the key is in the file of the certificate.
    ///
    /// # Errors
    /// A sentence that names the file, and what is wrong with it.
    pub(super) fn read(
        certificate: &Path,
        key: Option<&Path>,
        password: Option<&[u8]>,
        provider: &CryptoProvider,
    ) -> Result<Self, String> {
        let file = PemFile::read("--certfile", certificate)?;
        let chain = file.all(CERTIFICATE, "certificate")?;
        let parsed = parse(&file, &chain)?;
        let key = match key {
            Some(path) => PemFile::read("--keyfile", path).and_then(|file| load_key(&file, password, provider)),
            None if file.parts.iter().any(|part| part.tag().ends_with("PRIVATE KEY")) => {
                load_key(&file, password, provider)
            }
            None => Err(file.wrong("has no private key: name its file with --keyfile")),
        }?;
        check_key(&file, &parsed, &*key)?;
        check_order(&file, &parsed)?;
        let chain = chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let mut certified = CertifiedKey::new(chain, key);
        certified.ocsp = staple(certificate)?;
        let leaf = &parsed[0];
        let expires = leaf.tbs_certificate().validity().not_after.to_system_time();
        Ok(Self { certified: Arc::new(certified), names: names(leaf), path: certificate.to_owned(), expires })
    }

    /// Returns the files that a pair is read from.
    pub(super) fn files(certificate: &Path, key: Option<&Path>) -> Vec<PathBuf> {
        let staple = staple_path(certificate);
        [Some(certificate), key, Some(&staple)].into_iter().flatten().map(Path::to_owned).collect()
    }
}

fn parse(file: &PemFile<'_>, chain: &[&[u8]]) -> Result<Vec<Certificate>, String> {
    let read = |(index, der): (usize, &&[u8])| {
        Certificate::from_der(der)
            .map_err(|error| file.wrong(&format!("has a damaged certificate, number {}: {error}", index + 1)))
    };
    chain.iter().enumerate().map(read).collect()
}

fn load_key(
    file: &PemFile<'_>,
    password: Option<&[u8]>,
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, String> {
    let key = key_in(file, password)?;
    provider.key_provider.load_private_key(key).map_err(|_| {
        file.wrong(
            "has a key that cannot be used: it is damaged, or of a kind other than RSA with 2048 to 8192 bits, ECDSA \
             with P-256 or P-384, and Ed25519",
        )
    })
}

/// Checks that the key is that of the first certificate.
fn check_key(file: &PemFile<'_>, chain: &[Certificate], key: &dyn SigningKey) -> Result<(), String> {
    // A kind of key that does not tell its public key is taken as it is.
    let Some(public) = key.public_key() else { return Ok(()) };
    let fits = |certificate: &Certificate| {
        let info = certificate.tbs_certificate().subject_public_key_info().to_der();
        info.is_ok_and(|info| info == public.as_ref())
    };
    match chain.iter().position(fits) {
        Some(0) => Ok(()),
        Some(index) => Err(file.wrong(&format!(
            "has its certificates in the wrong order: the key belongs to number {}, which must come first",
            index + 1
        ))),
        None => Err(file.wrong("and its key do not fit: the key is that of another certificate")),
    }
}

/// Checks that each certificate has issued the one before it.
fn check_order(file: &PemFile<'_>, chain: &[Certificate]) -> Result<(), String> {
    for (index, pair) in chain.windows(2).enumerate() {
        let (issuer, next) = (pair[0].tbs_certificate().issuer(), pair[1].tbs_certificate().subject());
        // Authorities may write a name in another encoding.
        if issuer != next && issuer.to_string() != next.to_string() {
            return Err(file.wrong(&format!(
                "has its certificates in the wrong order: number {} is from \"{issuer}\", and number {}, which must be \
                 that authority, is \"{next}\"",
                index + 1,
                index + 2
            )));
        }
    }
    Ok(())
}

/// Returns the names of hosts of a certificate. One without such names is for its common name, as before RFC 6125.
fn names(certificate: &Certificate) -> Vec<String> {
    let tbs = certificate.tbs_certificate();
    let alternative = tbs.get_extension::<SubjectAltName>().ok().flatten();
    let names = alternative.iter().flat_map(|(_, names)| &names.0).filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    if !names.is_empty() {
        return names;
    }
    let common = tbs.subject().iter().filter(|attribute| attribute.oid == COMMON_NAME);
    let text = common.filter_map(|attribute| {
        let value = &attribute.value;
        let printable = PrintableStringRef::try_from(value).ok().map(|text| text.to_string());
        let utf8 = || Utf8StringRef::try_from(value).ok().map(|text| text.to_string());
        printable.or_else(utf8).or_else(|| Ia5StringRef::try_from(value).ok().map(|text| text.to_string()))
    });
    text.map(|name| name.to_ascii_lowercase()).collect()
}

fn staple_path(certificate: &Path) -> PathBuf {
    let mut path = certificate.as_os_str().to_owned();
    path.push(STAPLE_ENDING);
    path.into()
}

/// Returns the OCSP response beside a certificate. Without the file there is none.
fn staple(certificate: &Path) -> Result<Option<Vec<u8>>, String> {
    let path = staple_path(certificate);
    let bytes = match read_bounded(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(format!("the OCSP response {} cannot be read: {}", path.display(), sys::plain(&error)));
        }
    };
    // The status follows the sequence's length, which has one to four bytes.
    if bytes.first() != Some(&0x30) || !bytes.windows(3).take(6).any(|part| part == SUCCESSFUL) {
        return Err(format!("{} is no OCSP response in DER with the status successful", path.display()));
    }
    Ok(Some(bytes))
}
