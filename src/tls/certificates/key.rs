//! Private keys: PKCS#8, PKCS#1 and SEC1, and encrypted PKCS#8.
//!
//! *Owns*: nothing. *Runs on*: any plain thread. *Source*: RFC 5208, RFC 8018, RFC 8017 appendix A.1.2, RFC 5915;
//! RFC 1421 §4.6.1.3 for the old encrypted form.

use std::fs;
use std::path::Path;

use pem::Pem;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

use super::pem::PemFile;
use crate::config::KeyPassword;
use crate::sys;

/// How a key is converted.
const CONVERT: &str = "`openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out NEW` converts it";

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
                std::env::var(name).map_err(|_| format!("--keyfile-password: the variable {name} is not set"))?;
            (format!("variable {name}"), value.into_bytes())
        }
    };
    if text.is_empty() {
        return Err(format!("--keyfile-password: the {what} is empty"));
    }
    Ok(Some(text))
}

fn first_line(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |error| format!("--keyfile-password {} cannot be read: {}", path.display(), sys::plain(&error));
    let bytes = fs::read(path).map_err(wrong)?;
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
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(part.contents());
    let encrypted = encrypted.map_err(|error| file.wrong(&format!("has a damaged encrypted key: {error}")))?;
    let document = encrypted.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::NoPbes1CryptSupport) => {
            file.wrong(&format!("has a key that is encrypted in the form PBES1: {CONVERT}"))
        }
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { oid }) => file
            .wrong(&format!("has a key that is encrypted with a method that Maypole does not know ({oid}): {CONVERT}")),
        // A wrong password can also give bytes that are not a key.
        _ => file.wrong("has a key that --keyfile-password does not decrypt: the password is wrong"),
    })?;
    Ok(PrivatePkcs8KeyDer::from(document.as_bytes().to_vec()).into())
}
