//! The settings of TLS.
//!
//! *Owns*: `TlsSettings`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*: as
//! for `Config`. No file is opened here. A password is never printed.

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use super::ciphers::Ciphers;
use super::{Config, Origin, Scheme, TLS};

/// How a client has to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// No client is asked for one.
    None,
    /// Each client is asked, and may have none.
    Optional,
    /// A client without one is refused.
    Required,
}

impl ClientCertificates {
    /// Reads `none`, `optional` or `required`, and the numbers and names of Python's module ssl.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let name = text.strip_prefix("ssl.").unwrap_or(&text);
        let name = name.strip_prefix("verifymode.").unwrap_or(name);
        match name.strip_prefix("cert_").unwrap_or(name) {
            "0" | "none" => Ok(Self::None),
            "1" | "optional" => Ok(Self::Optional),
            "2" | "required" => Ok(Self::Required),
            _ => Err("expected none, optional or required, or 0, 1 or 2 as in Python's module ssl".to_owned()),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// The versions of TLS that clients may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    All,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}

impl TlsVersions {
    /// Reads gunicorn's names, which are those of Python's module ssl without `PROTOCOL_`, and the module's numbers.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected TLS (1.2 and 1.3), TLSv1_2 or TLSv1_3";
        let text = text.trim().to_ascii_lowercase().replace('.', "_");
        let name = text.strip_prefix("ssl_").unwrap_or(&text);
        let name = name.strip_prefix("_sslmethod_").or_else(|| name.strip_prefix("_")).unwrap_or(name);
        match name.strip_prefix("protocol_").unwrap_or(name) {
            "tls" | "tls_server" | "sslv23" | "2" | "17" => Ok(Self::All),
            "tlsv1_2" | "5" => Ok(Self::Tls12),
            "tlsv1_3" => Ok(Self::Tls13),
            "sslv2" | "sslv3" | "tlsv1" | "tlsv1_0" | "tlsv1_1" | "0" | "1" | "3" | "4" => {
                Err(format!("{EXPECTED}; older versions are broken, and Maypole does not speak them"))
            }
            _ => Err(EXPECTED.to_owned()),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::All => "TLS",
            Self::Tls12 => "TLSv1_2",
            Self::Tls13 => "TLSv1_3",
        }
    }
}

/// Whether the kernel seals files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelTls {
    /// If it can.
    Auto,
    /// Never.
    Off,
}

impl KernelTls {
    /// Reads `auto` or `off`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err("expected auto or off".to_owned()),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// Where the password of encrypted keys is.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyPassword {
    /// The password itself.
    Text(String),
    /// In the first line of a file.
    File(PathBuf),
    /// In an environment variable.
    Variable(String),
}

impl KeyPassword {
    /// Reads the forms of OpenSSL's `-passin`: `file:PATH`, `env:NAME`, `pass:PASSWORD`. Other text is the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            return if path.is_empty() {
                Err("expected a path after file:".to_owned())
            } else {
                Ok(Self::File(path.into()))
            };
        }
        if let Some(name) = text.strip_prefix("env:") {
            return if name.is_empty() {
                Err("expected the name of a variable after env:".to_owned())
            } else {
                Ok(Self::Variable(name.to_owned()))
            };
        }
        Ok(Self::Text(text.strip_prefix("pass:").unwrap_or(text).to_owned()))
    }
}

impl fmt::Display for KeyPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("(hidden)"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Variable(name) => write!(f, "env:{name}"),
        }
    }
}

impl fmt::Debug for KeyPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The settings of TLS.
#[derive(Debug, Clone, Args)]
pub struct TlsSettings {
    /// Speak TLS with the certificate of this file, in PEM, and with those that lead to its authority. Repeatable
    ///
    /// The server's certificate comes first in the file, then the one that issued it, and so on, as in certbot's
    /// `fullchain.pem`. With several files, a client gets the certificate for the name that it asks for, wildcards
    /// included. A client that names no host, or an unknown one, gets the first. A file of the same name with `.ocsp`
    /// at its end is sent along as the OCSP response.
    ///
    /// Every address of `--bind` speaks TLS then, unless it begins with `http://`. Changed files are read anew. See
    /// [TLS](../tls.md).
    #[arg(long, value_name = "FILE", value_delimiter = ',', help_heading = TLS)]
    pub certfile: Vec<PathBuf>,

    /// Take the key of the certificate from this file, in PEM. Repeatable. Default: it is in `--certfile`
    ///
    /// The first key belongs to the first certificate, and so on. PKCS#8, PKCS#1 and SEC1 are read. Only the owner of
    /// the file should be able to read it; the server reads it before it changes to `--user`.
    #[arg(long, value_name = "FILE", value_delimiter = ',', help_heading = TLS)]
    pub keyfile: Vec<PathBuf>,

    /// Decrypt keys with this password, `file:PATH` or `env:NAME`. Without it an encrypted key ends the start
    ///
    /// `file:` takes the first line of a file, and `env:` a variable. A password on the command line is visible to
    /// every user of the machine. No page and no log shows it.
    #[arg(long, value_name = "PASSWORD", value_parser = KeyPassword::parse, help_heading = TLS)]
    pub keyfile_password: Option<KeyPassword>,

    /// Trust the client certificates of the authorities in this file, in PEM. It needs `--cert-reqs`
    ///
    /// The file has the certificates of the authorities. Clients send those between the authority and their own.
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub ca_certs: Option<PathBuf>,

    /// Ask clients for a certificate: `none`, `optional`, `required`. A wrong one ends the connection
    ///
    /// 0, 1 and 2 mean the same. With `required` a client without a certificate is refused during the handshake. With
    /// `optional` the application sees in `SSL_CLIENT_VERIFY` whether there was one. See
    /// [client certificates](../tls.md#client-certificates).
    #[arg(long, value_name = "WHICH", value_parser = ClientCertificates::parse, default_value = "none")]
    #[arg(help_heading = TLS)]
    pub cert_reqs: ClientCertificates,

    /// Refuse client certificates that this file revokes, in PEM
    ///
    /// The file needs a current list of every authority between the client and its root. A certificate whose authority
    /// has no list there is refused, and so is one whose list has expired.
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub ssl_crl: Option<PathBuf>,

    /// Use these cipher suites only, in this order. Names of OpenSSL and of IANA, separated by colons
    ///
    /// Suites of TLS 1.3 stay on unless the list names some of them. A word that is not the name of one suite, such as
    /// `HIGH` or `!aNULL`, is ignored with a warning: every suite of Maypole has forward secrecy and is authenticated.
    #[arg(long, value_name = "LIST", value_parser = Ciphers::parse, help_heading = TLS)]
    pub ciphers: Option<Ciphers>,

    /// Speak these versions: `TLS` (1.2 and 1.3), `TLSv1_2`, `TLSv1_3`. Refuse others
    #[arg(long, value_name = "VERSION", value_parser = TlsVersions::parse, default_value = "TLS", help_heading = TLS)]
    pub ssl_version: TlsVersions,

    /// Redirect plain HTTP on an address with TLS to `https://`, with 308. Without it the answer is 400
    #[arg(long, help_heading = TLS)]
    pub https_redirect: bool,

    /// Let the kernel seal the files of clients with TLS: `auto`, if it can, or `off`
    ///
    /// Linux has that (kTLS) if its module `tls` is loaded. A server that root starts loads it by itself. A connection
    /// goes to the kernel before the first file of at least 256 KiB, and stays there. See [TLS](../tls.md#connections).
    #[arg(long, value_name = "WHEN", value_parser = KernelTls::parse, default_value = "auto", help_heading = TLS)]
    pub ktls: KernelTls,
}

impl TlsSettings {
    /// Returns whether the server has a certificate.
    pub fn is_used(&self) -> bool {
        !self.certfile.is_empty()
    }

    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| path.display().to_string();
        let paths = |paths: &[PathBuf]| paths.iter().map(path).collect::<Vec<_>>().join(",");
        let option = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        vec![
            ("certfile", paths(&self.certfile)),
            ("keyfile", paths(&self.keyfile)),
            ("keyfile_password", option(self.keyfile_password.as_ref().map(ToString::to_string))),
            ("ca_certs", option(self.ca_certs.as_ref().map(path))),
            ("cert_reqs", self.cert_reqs.as_str().to_owned()),
            ("ssl_crl", option(self.ssl_crl.as_ref().map(path))),
            ("ciphers", option(self.ciphers.as_ref().map(ToString::to_string))),
            ("ssl_version", self.ssl_version.as_str().to_owned()),
            ("https_redirect", self.https_redirect.to_string()),
            ("ktls", self.ktls.as_str().to_owned()),
        ]
    }
}

/// Returns whether a setting is meant for this start alone. A file and the environment may be shared by several servers.
fn is_for_this_start(origin: &Origin) -> bool {
    matches!(origin, Origin::CommandLine | Origin::Keyword)
}

impl Config {
    /// Returns the settings that say how TLS is spoken, if there is no certificate, and where they come from. Values that
    /// are the defaults are left out.
    fn without_certificate(&self) -> impl Iterator<Item = (String, Origin)> {
        let tls = &self.tls;
        let given = [
            ("keyfile_password", tls.keyfile_password.is_some()),
            ("ciphers", tls.ciphers.is_some()),
            ("ssl_version", tls.ssl_version != TlsVersions::All),
            ("ktls", tls.ktls != KernelTls::Auto),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given && !tls.is_used());
        given.map(|(name, _)| (format!("--{}", name.replace('_', "-")), self.origins.of(name)))
    }

    /// Returns sentences about settings of TLS that have no effect. `check` refuses those that are meant for this start
    /// alone.
    pub(super) fn tls_warnings(&self) -> impl Iterator<Item = String> {
        let shared = self.without_certificate().filter(|(_, origin)| !is_for_this_start(origin));
        shared.map(|(option, origin)| format!("{option} ({origin}) has no effect without --certfile"))
    }

    /// Checks the rules between the settings of TLS.
    pub(super) fn check_tls(&self) -> Result<(), String> {
        let tls = &self.tls;
        let wants_certificates = tls.cert_reqs != ClientCertificates::None;
        if !tls.is_used() {
            let needing = [
                ("--keyfile", !tls.keyfile.is_empty()),
                ("--cert-reqs", wants_certificates),
                ("--ca-certs", tls.ca_certs.is_some()),
                ("--ssl-crl", tls.ssl_crl.is_some()),
                ("--https-redirect", tls.https_redirect),
            ];
            if let Some((option, _)) = needing.iter().find(|(_, is_given)| *is_given) {
                return Err(format!("{option} needs --certfile"));
            }
            if let Some((option, _)) = self.without_certificate().find(|(_, origin)| is_for_this_start(origin)) {
                return Err(format!("{option} has no effect without --certfile"));
            }
            return match self.bind.iter().find(|bind| bind.scheme == Scheme::Https) {
                Some(bind) => {
                    Err(format!("--bind {bind} needs --certfile, and --keyfile if the key is in another file"))
                }
                None => Ok(()),
            };
        }
        let (certificates, keys) = (tls.certfile.len(), tls.keyfile.len());
        if keys > 0 && keys != certificates {
            return Err(format!(
                "--keyfile has {keys} of the {certificates} keys: name one for each --certfile, in the same order"
            ));
        }
        if wants_certificates && tls.ca_certs.is_none() {
            return Err(format!(
                "--cert-reqs {} needs --ca-certs, the authorities of the clients",
                tls.cert_reqs.as_str()
            ));
        }
        if tls.ssl_crl.is_some() && !wants_certificates {
            return Err("--ssl-crl needs --cert-reqs optional or required".to_owned());
        }
        if self.bind.iter().all(|bind| bind.scheme == Scheme::Http) {
            return Err("--certfile has no effect: every address of --bind begins with http://".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_certificates_have_the_names_of_python() {
        for (texts, wanted) in [
            (["0", "none", "CERT_NONE", "VerifyMode.CERT_NONE"], ClientCertificates::None),
            (["1", "optional", "CERT_OPTIONAL", "ssl.CERT_OPTIONAL"], ClientCertificates::Optional),
            (["2", "required", "CERT_REQUIRED", " Required "], ClientCertificates::Required),
        ] {
            for text in texts {
                assert_eq!(ClientCertificates::parse(text), Ok(wanted), "{text}");
            }
        }
        assert!(ClientCertificates::parse("3").unwrap_err().starts_with("expected none"));
    }

    #[test]
    fn versions_have_the_names_of_python() {
        for (texts, wanted) in [
            (["TLS", "2", "SSLv23", "_SSLMethod.PROTOCOL_TLS"], TlsVersions::All),
            (["TLSv1_2", "5", "PROTOCOL_TLSv1_2", "TLSv1.2"], TlsVersions::Tls12),
            (["TLSv1_3", "tlsv1.3", "TLSV1_3", " TLSv1_3 "], TlsVersions::Tls13),
        ] {
            for text in texts {
                assert_eq!(TlsVersions::parse(text), Ok(wanted), "{text}");
            }
        }
        assert_eq!(TlsVersions::parse("ssl.PROTOCOL_TLS_SERVER"), Ok(TlsVersions::All));
        for text in ["SSLv3", "TLSv1", "TLSv1_1", "4"] {
            assert!(TlsVersions::parse(text).unwrap_err().contains("older versions are broken"), "{text}");
        }
        assert!(TlsVersions::parse("DTLS").unwrap_err().starts_with("expected TLS"));
    }

    #[test]
    fn password_is_never_printed() {
        for (text, wanted, printed) in [
            ("secret", KeyPassword::Text("secret".to_owned()), "(hidden)"),
            ("pass:file:x", KeyPassword::Text("file:x".to_owned()), "(hidden)"),
            ("file:/run/x", KeyPassword::File("/run/x".into()), "file:/run/x"),
            ("env:KEY", KeyPassword::Variable("KEY".to_owned()), "env:KEY"),
        ] {
            let password = KeyPassword::parse(text).unwrap();
            assert_eq!((format!("{password} {password:?}"), &password), (format!("{printed} {printed}"), &wanted));
        }
        assert!(KeyPassword::parse("file:").is_err() && KeyPassword::parse("env:").is_err());
    }

    fn check(args: &[&str]) -> Result<(), String> {
        Config::parse_from([&["maypole", "m:app"], args].concat()).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn settings_that_need_others_say_so() {
        for (args, sentence) in [
            (&["--keyfile", "k"][..], "--keyfile needs --certfile"),
            (&["--https-redirect"], "--https-redirect needs --certfile"),
            (&["--cert-reqs", "2", "--ca-certs", "a"], "--cert-reqs needs --certfile"),
            (&["--ca-certs", "a"], "--ca-certs needs --certfile"),
            (&["--ssl-crl", "r"], "--ssl-crl needs --certfile"),
            (&["--keyfile-password", "env:K"], "--keyfile-password has no effect without --certfile"),
            (&["--ciphers", "ECDHE-RSA-AES128-GCM-SHA256"], "--ciphers has no effect without --certfile"),
            (&["--ssl-version", "TLSv1_2"], "--ssl-version has no effect without --certfile"),
            (&["--ktls", "off"], "--ktls has no effect without --certfile"),
            (
                &["-b", "https://[::1]:1"],
                "--bind https://[::1]:1 needs --certfile, and --keyfile if the key is in another file",
            ),
            (
                &["--certfile", "c", "--certfile", "d", "--keyfile", "k"],
                "--keyfile has 1 of the 2 keys: name one for each --certfile, in the same order",
            ),
            (
                &["--certfile", "c", "--cert-reqs", "1"],
                "--cert-reqs optional needs --ca-certs, the authorities of the clients",
            ),
            (&["--certfile", "c", "--ssl-crl", "r"], "--ssl-crl needs --cert-reqs optional or required"),
            (
                &["--certfile", "c", "-b", "http://x"],
                "--certfile has no effect: every address of --bind begins with http://",
            ),
        ] {
            assert_eq!(check(args).unwrap_err(), sentence);
        }
        assert_eq!(check(&["--certfile", "c", "-b", "http://x", "-b", "y:1"]), Ok(()));
        assert_eq!(check(&["--certfile", "c,d", "--keyfile", "k", "--keyfile", "l"]), Ok(()));
        // Values that are the defaults ask for nothing.
        assert_eq!(check(&["--ssl-version", "TLS", "--ktls", "auto", "--cert-reqs", "0"]), Ok(()));
    }

    #[test]
    fn shared_settings_may_say_how_tls_is_spoken_without_a_certificate() {
        let of = |args: &[&str]| {
            let args = [&["maypole", "m:app", "--ssl-version", "TLSv1_3", "--keyfile-password", "hush"], args].concat();
            let mut config = Config::parse_from(args).unwrap();
            config.origins.set("ssl_version", Origin::File("maypole.toml:4".to_owned()));
            config.origins.set("keyfile_password", Origin::Variable("MAYPOLE_KEYFILE_PASSWORD".to_owned()));
            assert_eq!(config.check(), Ok(()));
            config.tls_warnings().collect::<Vec<_>>()
        };
        assert_eq!(
            of(&[]),
            [
                "--keyfile-password (variable MAYPOLE_KEYFILE_PASSWORD) has no effect without --certfile",
                "--ssl-version (maypole.toml:4) has no effect without --certfile",
            ]
        );
        assert!(of(&["--certfile", "c"]).is_empty());
    }
}
