//! Certificates and keys that `openssl` makes, read from their files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damaged;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustls::SignatureScheme;
use tempfile::TempDir;

use super::*;
use crate::config::Config;

/// A directory in which `openssl` makes files.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `openssl` in the directory. Its words have no spaces.
    fn openssl(&self, words: &str) -> &Self {
        let mut command = Command::new("openssl");
        command.args(words.split(' ')).current_dir(self.0.path()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "openssl {words}");
        self
    }

    /// Makes `NAME.pem` and `NAME.key`, signed by itself.
    fn pair(&self, name: &str, kind: &str, names: &str) -> &Self {
        let request = format!("req -x509 -newkey {kind} -nodes -keyout {name}.key -out {name}.pem -days 30");
        self.openssl(&format!("{request} -subj /CN={name} -addext subjectAltName={names}"))
    }

    fn load(&self, options: &str) -> Result<Arc<Certificates>, String> {
        let place = self.0.path().to_str().unwrap();
        let words = format!("maypole m:app {options}").replace('@', &format!("{place}/"));
        let config = Config::parse_from(words.split(' ')).unwrap();
        config.check().unwrap();
        let loaded = Certificates::load(&config.tls, None);
        loaded.map(Option::unwrap).map_err(|error| error.to_string().replace(&format!("{place}/"), "@"))
    }
}

const EC: &str = "ec -pkeyopt ec_paramgen_curve:P-256";
const PAIR: &str = "--certfile @a.pem --keyfile @a.key";

#[test]
fn key_of_each_form_is_read() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example").pair("r", "rsa:2048", "DNS:r.example");
    place.openssl("ec -in a.key -out sec1.key").openssl("rsa -in r.key -traditional -out pkcs1.key");
    place.openssl("pkcs8 -topk8 -in a.key -out encrypted.key -passout pass:secret");
    place.openssl("pkcs8 -topk8 -in a.key -out scrypt.key -passout pass:secret -scrypt -scrypt_N 1024");
    let both = [fs::read(place.path("a.key")).unwrap(), fs::read(place.path("a.pem")).unwrap()].concat();
    fs::write(place.path("both.pem"), both).unwrap();
    fs::write(place.path("password"), "secret\n").unwrap();
    for options in [
        PAIR,
        "--certfile @both.pem",
        "--certfile @a.pem --keyfile @sec1.key",
        "--certfile @r.pem --keyfile @pkcs1.key",
        "--certfile @a.pem --keyfile @encrypted.key --keyfile-password secret",
        "--certfile @a.pem --keyfile @encrypted.key --keyfile-password file:@password",
        "--certfile @a.pem --keyfile @scrypt.key --keyfile-password pass:secret",
    ] {
        assert!(place.load(options).is_ok(), "{options}: {:?}", place.load(options));
    }
}

#[test]
fn pair_that_is_wrong_names_the_file_and_the_fault() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example").pair("b", EC, "DNS:b.example");
    place.openssl("pkcs8 -topk8 -in a.key -out encrypted.key -passout pass:secret");
    place.openssl("ec -in a.key -out old.key -aes128 -passout pass:secret");
    place.openssl("req -new -key a.key -subj /CN=a -out a.csr");
    let join = |name: &str, parts: [&str; 2]| {
        let parts = parts.map(|part| fs::read(place.path(part)).unwrap());
        fs::write(place.path(name), parts.concat()).unwrap();
    };
    join("swapped.pem", ["b.pem", "a.pem"]);
    join("unordered.pem", ["a.pem", "b.pem"]);
    let convert = "`openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out NEW` converts it";
    for (options, sentence) in [
        ("--certfile @none.pem", "--certfile @none.pem cannot be read: No such file or directory".to_owned()),
        ("--certfile @a.pem", "--certfile @a.pem has no private key: name its file with --keyfile".to_owned()),
        ("--certfile @a.csr", "--certfile @a.csr has no certificate, but CERTIFICATE REQUEST".to_owned()),
        ("--certfile @a.key", "--certfile @a.key has no certificate, but PRIVATE KEY".to_owned()),
        ("--certfile @a.pem --keyfile @b.pem", "--keyfile @b.pem has no private key, but CERTIFICATE".to_owned()),
        (
            "--certfile @a.pem --keyfile @b.key",
            "--certfile @a.pem and its key do not fit: the key is that of another certificate".to_owned(),
        ),
        (
            "--certfile @a.pem --keyfile @encrypted.key",
            "--keyfile @encrypted.key has an encrypted key, and --keyfile-password is not set".to_owned(),
        ),
        (
            "--certfile @a.pem --keyfile @encrypted.key --keyfile-password wrong",
            "--keyfile @encrypted.key has a key that --keyfile-password does not decrypt: the password is wrong, or the \
             file is damaged".to_owned(),
        ),
        (
            "--certfile @a.pem --keyfile @old.key --keyfile-password secret",
            format!("--keyfile @old.key has a key that is encrypted in the old form (DEK-Info): {convert}"),
        ),
        (
            "--certfile @swapped.pem --keyfile @a.key",
            "--certfile @swapped.pem has its certificates in the wrong order: the key belongs to number 2, which must come \
             first"
                .to_owned(),
        ),
        (
            "--certfile @unordered.pem --keyfile @a.key",
            "--certfile @unordered.pem has its certificates in the wrong order: number 1 is from \"CN=a\", and number 2, \
             which must be that authority, is \"CN=b\""
                .to_owned(),
        ),
        (
            "--certfile @a.pem --keyfile @a.key --keyfile-password env:NOT_SET_ANYWHERE",
            "--keyfile-password: the variable NOT_SET_ANYWHERE is not set".to_owned(),
        ),
        (
            "--certfile @a.pem --keyfile @a.key --cert-reqs 2 --ca-certs @a.key",
            "--ca-certs @a.key has no certificate, but PRIVATE KEY".to_owned(),
        ),
        (
            "--certfile @a.pem --keyfile @a.key --cert-reqs 2 --ca-certs @a.pem --ssl-crl @a.pem",
            "--ssl-crl @a.pem has no list of revoked certificates, but CERTIFICATE".to_owned(),
        ),
        (
            "--certfile @a.pem --keyfile @a.key --ssl-version TLSv1_2 --ciphers TLS_AES_128_GCM_SHA256",
            "--ciphers names no suite of the version in --ssl-version".to_owned(),
        ),
    ] {
        assert_eq!(place.load(options).unwrap_err(), sentence);
    }
}

#[test]
fn key_of_another_curve_is_named() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example");
    place.openssl("ecparam -name secp521r1 -genkey -noout -out p521.key");
    let other = place.load("--certfile @a.pem --keyfile @p521.key").unwrap_err();
    // AWS-LC can use such a key.
    let is_usable = cfg!(feature = "aws-lc");
    let beginning =
        if is_usable { "--certfile @a.pem and its key" } else { "--keyfile @p521.key has a key that cannot be used" };
    assert!(other.starts_with(beginning), "{other}");
}

fn pair(place: &Place, name: &str) -> Pair {
    let key = place.path(&format!("{name}.key"));
    Pair::read(&place.path(&format!("{name}.pem")), Some(&key), None, &cryptography::provider()).unwrap()
}

#[test]
fn client_gets_the_certificate_of_the_host_that_it_names() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example,DNS:*.shop.example").pair("b", EC, "DNS:b.example,DNS:x.shop.example");
    place.pair("r", "rsa:2048", "DNS:a.example").openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout c.key -out c.pem -days 30 -subj /CN=C.example",
    );
    let pairs = ["a", "b", "r", "c"].map(|name| pair(&place, name));
    let names = Names::new(&pairs);
    let chosen = |host, scheme| {
        let found = names.choose(host, &[scheme])?;
        pairs.iter().position(|pair| Arc::ptr_eq(&pair.certified, &found))
    };
    let (ecdsa, rsa) = (SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256);
    for (host, place) in [
        ("a.example", 0),
        ("A.Example.", 0),
        ("b.example", 1),
        ("x.shop.example", 1),
        ("y.shop.example", 0),
        ("y.x.shop.example", 0),
        ("shop.example", 0),
        ("c.example", 3),
        ("unknown.example", 0),
    ] {
        assert_eq!(chosen(Some(host), ecdsa), Some(place), "{host}");
    }
    assert_eq!((chosen(None, ecdsa), chosen(None, rsa), chosen(Some("a.example"), rsa)), (Some(0), Some(2), Some(2)));
    // The handshake then fails for want of a common signature.
    assert_eq!(chosen(Some("a.example"), SignatureScheme::ED25519), chosen(Some("a.example"), ecdsa));
}

#[test]
fn reload_keeps_what_was_there_if_the_files_are_wrong() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example");
    let certificates = place.load(PAIR).unwrap();
    let before = certificates.current(Offered::All);
    fs::write(place.path("a.pem"), "").unwrap();
    assert!(certificates.reload().unwrap_err().to_string().ends_with("a.pem is empty"));
    assert!(Arc::ptr_eq(&certificates.current(Offered::All), &before));
    place.pair("a", EC, "DNS:a.example");
    certificates.reload().unwrap();
    assert!(!Arc::ptr_eq(&certificates.current(Offered::All), &before));
}

#[test]
fn settings_reach_the_configuration() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example");
    let options = format!("{PAIR} --ssl-version TLSv1_2 --ciphers ECDHE-ECDSA-AES128-GCM-SHA256:HIGH");
    let config = place.load(&options).unwrap().current(Offered::All);
    let suites = config.crypto_provider().cipher_suites.iter().map(|suite| iana_name(suite.suite()));
    assert_eq!(suites.collect::<Vec<_>>(), ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]);
    assert!(config.ignore_client_order && config.alpn_protocols[..2] == [b"h2".to_vec(), b"http/1.1".to_vec()]);
    let all = place.load(PAIR).unwrap().current(Offered::All);
    assert_eq!(all.crypto_provider().cipher_suites.len(), crate::config::SUITES.len());
    let names = all.crypto_provider().cipher_suites.iter().map(|suite| iana_name(suite.suite()));
    assert!(names.zip(&crate::config::SUITES).all(|(name, suite)| name == suite.iana));
}

#[test]
fn response_of_ocsp_stands_beside_its_certificate() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example");
    let response = [0x30, 0x03, 0x0a, 0x01, 0x00];
    fs::write(place.path("a.pem.ocsp"), response).unwrap();
    assert_eq!(pair(&place, "a").certified.ocsp.as_deref(), Some(&response[..]));
    fs::write(place.path("a.pem.ocsp"), [0x30, 0x03, 0x0a, 0x01, 0x06]).unwrap();
    let error = place.load(PAIR).unwrap_err();
    assert_eq!(error, "@a.pem.ocsp is no OCSP response in DER with the status successful");
}

#[test]
fn end_of_a_certificate_is_told_in_time() {
    let end = |days: u64| End {
        path: Path::new("/x.pem").to_owned(),
        expires: SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY_S),
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * DAY_S);
    assert_eq!(end(114).sentence(now), None);
    assert_eq!(end(113).sentence(now).unwrap(), "the certificate /x.pem expires in 13 days");
    let soon = End { expires: now + Duration::from_secs(3601), ..end(0) };
    assert_eq!(soon.sentence(now).unwrap(), "the certificate /x.pem expires in 1 hour");
    assert_eq!(end(99).sentence(now).unwrap(), "the certificate /x.pem has expired: clients refuse it");
}
