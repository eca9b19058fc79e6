//! Lists of cipher suites, as in `--ciphers`.
//!
//! *Owns*: the names of the suites. *Runs on*: the main thread, while the settings are read. *Source*: the names of
//! OpenSSL from `ciphers(1)`, the others from the IANA registry "TLS Cipher Suites".

use std::fmt;

/// A cipher suite, by its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// The name in the registry of IANA.
    pub iana: &'static str,
    /// The name in OpenSSL, which applications see in `SSL_CIPHER`.
    pub openssl: &'static str,
    /// Whether it is a suite of TLS 1.3.
    pub is_tls13: bool,
}

const fn tls13(name: &'static str) -> Suite {
    Suite { iana: name, openssl: name, is_tls13: true }
}

const fn tls12(iana: &'static str, openssl: &'static str) -> Suite {
    Suite { iana, openssl, is_tls13: false }
}

/// Every suite that the server speaks.
pub static SUITES: [Suite; 9] = [
    tls13("TLS_AES_256_GCM_SHA384"),
    tls13("TLS_AES_128_GCM_SHA256"),
    tls13("TLS_CHACHA20_POLY1305_SHA256"),
    tls12("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    tls12("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    tls12("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    tls12("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    tls12("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    tls12("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
];

/// A list of suites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ciphers {
    /// The list as it was given.
    text: String,
    /// The suites that clients may choose, the preferred one first.
    pub suites: Vec<&'static Suite>,
    /// The words that have no effect.
    pub ignored: Vec<String>,
}

impl Ciphers {
    /// Reads names of suites, separated by colons, commas or spaces. `!NAME` leaves a suite out. Suites of TLS 1.3 are
    /// on unless the list names one of them, as in OpenSSL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut named, mut excluded, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
        for word in text.split([':', ',', ' ', ';']).filter(|word| !word.is_empty()) {
            let (list, name) = match word.strip_prefix(['!', '-']) {
                Some(name) => (&mut excluded, name),
                None => (&mut named, word),
            };
            match find(name) {
                Some(suite) if !list.contains(&suite) => list.push(suite),
                Some(_) => {}
                None => ignored.push(word.to_owned()),
            }
        }
        if named.is_empty() {
            let all = SUITES.iter().map(|suite| suite.openssl).collect::<Vec<_>>().join(", ");
            return Err(format!("it names none of Maypole's suites, which are {all}"));
        }
        let mut suites = named;
        if !suites.iter().any(|suite| suite.is_tls13) {
            suites.splice(0..0, SUITES.iter().filter(|suite| suite.is_tls13));
        }
        suites.retain(|suite| !excluded.contains(suite));
        if suites.is_empty() {
            return Err("it excludes every suite that it names".to_owned());
        }
        Ok(Self { text: text.to_owned(), suites, ignored })
    }
}

/// Returns the suite with one of these names.
fn find(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|suite| name.eq_ignore_ascii_case(suite.iana) || name.eq_ignore_ascii_case(suite.openssl))
}

impl fmt::Display for Ciphers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&'static str> {
        Ciphers::parse(text).unwrap().suites.iter().map(|suite| suite.openssl).collect()
    }

    const TLS13: [&str; 3] = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];

    #[test]
    fn list_has_its_order_and_the_suites_of_tls13() {
        let list = "ECDHE-RSA-CHACHA20-POLY1305:TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, ecdhe-rsa-aes256-gcm-sha384";
        let tls12 = ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"];
        assert_eq!(names(list), [&TLS13[..], &tls12].concat());
    }

    #[test]
    fn list_that_names_suites_of_tls13_has_only_these() {
        assert_eq!(names("TLS_AES_128_GCM_SHA256"), ["TLS_AES_128_GCM_SHA256"]);
        let both = "ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256";
        assert_eq!(names(both), ["ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256"]);
    }

    #[test]
    fn words_that_name_no_suite_are_ignored() {
        let list =
            Ciphers::parse("ECDHE-RSA-AES128-GCM-SHA256:HIGH:!aNULL:AES256-SHA:!TLS_AES_128_GCM_SHA256").unwrap();
        assert_eq!(list.ignored, ["HIGH", "!aNULL", "AES256-SHA"]);
        assert!(!list.suites.iter().any(|suite| suite.iana == "TLS_AES_128_GCM_SHA256"));
        assert_eq!(list.suites.len(), 3);
    }

    #[test]
    fn list_without_a_suite_is_refused() {
        for text in ["", "HIGH:!aNULL", "ECDHE+AESGCM", "!TLS_AES_128_GCM_SHA256"] {
            assert!(Ciphers::parse(text).unwrap_err().starts_with("it names none of Maypole's suites"), "{text}");
        }
        let nothing = Ciphers::parse("TLS_AES_128_GCM_SHA256:!TLS_AES_128_GCM_SHA256");
        assert_eq!(nothing.unwrap_err(), "it excludes every suite that it names");
    }
}
