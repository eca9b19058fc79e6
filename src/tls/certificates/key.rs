//! Private keys: PKCS#8, PKCS#1 and SEC1, and encrypted PKCS#8.
//!
//! *Owns*: nothing. *Runs on*: any plain thread. *Invariants*: no bytes of a file make it panic, or compute for
//! minutes. No sentence has bytes of a key. *Source*: RFC 5958, RFC 8018, RFC 8017 appendix A.1.2, RFC 5915;
//! RFC 1421 §4.6.1.3 for the old encrypted form.

use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use pem::Pem;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::oid::ObjectIdentifier;
use pkcs8::der::{self, Decode as _, ErrorKind, Header, SliceReader};
use pkcs8::pkcs5::{self, EncryptionScheme, pbes2};
use pkcs8::spki::AlgorithmIdentifierRef;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

use super::pem::{PemFile, read_bounded};
use crate::config::KeyPassword;
use crate::sys;

/// How a key is converted.
const CONVERT: &str = "`openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out NEW` converts it";

/// The arc of the methods of PKCS#5, of which those other than PBES2 are old (RFC 8018 appendix A.3).
const PKCS5: &str = "1.2.840.113549.1.5.";
/// The arc of the methods of PKCS#12, which are old, too (RFC 7292 appendix C).
const PKCS12: &str = "1.2.840.113549.1.12.1.";
/// The most rounds of PBKDF2, which take seconds: those that RFC 8018 §4.2 names for the most critical keys.
const ROUNDS_MAX: u32 = 10_000_000;
/// The most memory that scrypt may fill, in bytes: eight times of what OpenSSL allows.
const SCRYPT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most bytes that scrypt may fill if it fills its memory several times. They take seconds.
const SCRYPT_FILLED_MAX: u64 = 4 * SCRYPT_BYTES_MAX;

/// Returns the password of the settings.
///
/// # Errors
/// The file or the variable that has it cannot be read, or is empty.
pub(super) fn password(setting: Option<&KeyPassword>) -> Result<Option<Vec<u8>>, String> {
    let Some(setting) = setting else { return Ok(None) };
    let (what, text) = match setting {
        KeyPassword::Text(text) => return Ok(Some(text.clone().into_bytes())),
        KeyPassword::File(path) => (format!("file {}", path.display()), first_line(path)?),
        KeyPassword::Variable(name) => {
            let value =
                std::env::var_os(name).ok_or_else(|| format!("--keyfile-password: the variable {name} is not set"))?;
            (format!("variable {name}"), value.into_vec())
        }
    };
    if text.is_empty() {
        return Err(format!("--keyfile-password: the {what} is empty"));
    }
    Ok(Some(text))
}

fn first_line(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = read_bounded(path)
        .map_err(|error| format!("--keyfile-password {} cannot be read: {}", path.display(), sys::plain(&error)))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

/// Returns the first key in a file.
///
/// # Errors
/// A sentence: there is no key, it is encrypted and the password is missing or wrong, or its form is not known.
pub(super) fn key_in(file: &PemFile<'_>, password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, String> {
    let found = file.parts.iter().find(|part| part.tag().ends_with("PRIVATE KEY"));
    let part = found.ok_or_else(|| file.has_no("private key"))?;
    if part.headers().get("DEK-Info").is_some() {
        return Err(file.wrong(&format!("has a key that is encrypted in the old form (DEK-Info): {CONVERT}")));
    }
    let der = part.contents().to_vec();
    match part.tag() {
        "PRIVATE KEY" => Ok(PrivatePkcs8KeyDer::from(der).into()),
        "RSA PRIVATE KEY" => Ok(PrivatePkcs1KeyDer::from(der).into()),
        "EC PRIVATE KEY" => Ok(PrivateSec1KeyDer::from(der).into()),
        "ENCRYPTED PRIVATE KEY" => decrypt(file, part, password),
        "OPENSSH PRIVATE KEY" => {
            let text = "has a key in the form of OpenSSH: `ssh-keygen -p -m PEM -f FILE` converts it";
            Err(file.wrong(text))
        }
        other => Err(file.wrong(&format!("has a key of a kind that TLS does not use here: {other}"))),
    }
}

fn decrypt(file: &PemFile<'_>, part: &Pem, password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, String> {
    let password = password.ok_or_else(|| file.wrong("has an encrypted key, and --keyfile-password is not set"))?;
    let damaged = |error: &dyn std::fmt::Display| file.wrong(&format!("has a damaged encrypted key: {error}"));
    let unknown = |oid| {
        let what = "has a key that is encrypted with a method that Maypole does not know";
        file.wrong(&format!("{what} ({oid}): {CONVERT}"))
    };
    let method = method_of(part.contents()).map_err(|error| damaged(&error))?;
    if method != pbes2::PBES2_OID {
        let is_old = [PKCS5, PKCS12].iter().any(|arc| method.to_string().starts_with(arc));
        let old = || file.wrong(&format!("has a key that is encrypted in an old form (PBES1 or PKCS#12): {CONVERT}"));
        return Err(if is_old { old() } else { unknown(method) });
    }
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(part.contents());
    let encrypted = encrypted.map_err(|error| match error {
        pkcs8::Error::Asn1(inner) => match inner.kind() {
            ErrorKind::OidUnknown { oid } => unknown(oid),
            _ => damaged(&error),
        },
        _ => damaged(&error),
    })?;
    if let EncryptionScheme::Pbes2(parameters) = &encrypted.encryption_algorithm {
        check_cost(&parameters.kdf).map_err(|what| file.wrong(&what))?;
    }
    let document = encrypted.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { oid }) => unknown(oid),
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::AlgorithmParametersInvalid { .. }) => damaged(&error),
        // A wrong password can also give bytes that are not a key.
        _ => file
            .wrong("has a key that --keyfile-password does not decrypt: the password is wrong, or the file is damaged"),
    })?;
    Ok(PrivatePkcs8KeyDer::from(document.as_bytes().to_vec()).into())
}

/// Returns the method with which a key is encrypted.
fn method_of(encrypted: &[u8]) -> Result<ObjectIdentifier, der::Error> {
    let mut reader = SliceReader::new(encrypted)?;
    Header::decode(&mut reader)?;
    AlgorithmIdentifierRef::decode(&mut reader).map(|method| method.oid)
}

/// Checks what it costs to derive a key from a password. A file names it, and a damaged one can name any number.
fn check_cost(kdf: &pbes2::Kdf) -> Result<(), String> {
    if let Some(pbkdf2) = kdf.pbkdf2() {
        return match pbkdf2.iteration_count {
            0 => Err("has a damaged encrypted key: 0 rounds of PBKDF2".to_owned()),
            rounds if rounds > ROUNDS_MAX => Err(format!(
                "has an encrypted key that wants {rounds} rounds of PBKDF2, and at most {ROUNDS_MAX} are done: \
                 {CONVERT}"
            )),
            _ => Ok(()),
        };
    }
    let Some(scrypt) = kdf.scrypt() else { return Ok(()) };
    let (cost, block, parallel) = (scrypt.cost_parameter, scrypt.block_size, scrypt.parallelization);
    if cost < 2 || !cost.is_power_of_two() || block == 0 || parallel == 0 {
        return Err(format!("has a damaged encrypted key: scrypt with N={cost}, r={block} and p={parallel}"));
    }
    let bytes = cost.saturating_mul(128 * u64::from(block));
    if bytes > SCRYPT_BYTES_MAX || bytes.saturating_mul(parallel.into()) > SCRYPT_FILLED_MAX {
        return Err(format!(
            "has an encrypted key that costs too much to decrypt: scrypt with N={cost}, r={block} and p={parallel}. \
             {CONVERT}"
        ));
    }
    Ok(())
}
