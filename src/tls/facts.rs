//! What is known of a session once its handshake has ended, and how applications see it.
//!
//! *Owns*: nothing that changes. *Runs on*: made on a thread of the handshakes, which reads the client's certificate
//! once for all requests of the connection; any thread reads it. *Source*: the names of `mod_ssl`, which nginx and uWSGI
//! have as well; RFC 4514 for the names of subjects.

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, ProtocolVersion};
use x509_cert::Certificate;
use x509_cert::der::{DateTime, Decode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::SUITES;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What is known of a session once its handshake has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The version of TLS: `TLSv1.3`.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite: `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: &'static str,
    /// The name of the host that the client asked for.
    pub server_name: Option<Box<str>>,
    /// Whether the client has chosen HTTP/2 (ALPN).
    pub is_http2: bool,
    /// The client's certificate, which has been verified. `None`: it has shown none.
    pub client: Option<Box<ClientCertificate>>,
}

/// The certificate of a client, as applications see it: keys of the environ with their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate(Vec<(String, String)>);

impl Facts {
    /// Returns what is known of a session. `server_name` is from its first message.
    pub(super) fn of(connection: &UnbufferedServerConnection, server_name: Option<Box<str>>) -> Self {
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let peer = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            protocol: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: suite.map_or("", openssl_name),
            server_name,
            is_http2: connection.alpn_protocol() == Some(b"h2"),
            client: peer.map(|certificate| Box::new(ClientCertificate::of(certificate))),
        }
    }

    /// Returns the entries of the environ.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let verify = if self.client.is_some() { "SUCCESS" } else { "NONE" };
        let name = self.server_name.as_deref().map(|name| ("SSL_TLS_SNI", name));
        let client = self.client.iter().flat_map(|client| &client.0);
        [("SSL_PROTOCOL", self.protocol), ("SSL_CIPHER", self.cipher), ("SSL_CLIENT_VERIFY", verify)]
            .into_iter()
            .chain(name)
            .chain(client.map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

impl ClientCertificate {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let pem = pem::Pem::new("CERTIFICATE", certificate.as_ref());
        let text = pem::encode_config(&pem, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF));
        let mut entries = vec![("SSL_CLIENT_CERT".to_owned(), text)];
        // A verified certificate that this reader does not understand is there in PEM only.
        if let Ok(certificate) = Certificate::from_der(certificate) {
            entries.extend(fields(&certificate));
        }
        Self(entries)
    }
}

/// Returns the fields of a certificate by their keys.
fn fields(certificate: &Certificate) -> Vec<(String, String)> {
    let tbs = certificate.tbs_certificate();
    let serial: Vec<_> = tbs.serial_number().as_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
    let validity = tbs.validity();
    let mut fields: Vec<_> = [
        ("SSL_CLIENT_S_DN", tbs.subject().to_string()),
        ("SSL_CLIENT_I_DN", tbs.issuer().to_string()),
        ("SSL_CLIENT_M_SERIAL", serial.concat()),
        ("SSL_CLIENT_V_START", date(validity.not_before.to_date_time())),
        ("SSL_CLIENT_V_END", date(validity.not_after.to_date_time())),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let names = tbs.get_extension::<SubjectAltName>().ok().flatten();
    let names = names.iter().flat_map(|(_, names)| &names.0).filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
        _ => None,
    });
    fields.extend(names.enumerate().map(|(index, name)| (format!("SSL_CLIENT_SAN_DNS_{index}"), name)));
    fields
}

/// Returns a time as OpenSSL prints it: `Nov  7 08:30:00 2026 GMT`.
fn date(time: DateTime) -> String {
    let month = MONTHS[usize::from(time.month() - 1)];
    let (hour, minute, second) = (time.hour(), time.minutes(), time.seconds());
    format!("{month} {:2} {hour:02}:{minute:02}:{second:02} {} GMT", time.day(), time.year())
}

/// Returns OpenSSL's name of a cipher suite.
fn openssl_name(suite: CipherSuite) -> &'static str {
    let name = iana_name(suite);
    SUITES.iter().find(|suite| suite.iana == name).map_or("", |suite| suite.openssl)
}

/// Returns the name of a suite in the registry of IANA. `rustls` has names of its own for those of TLS 1.3.
pub(super) fn iana_name(suite: CipherSuite) -> String {
    suite.as_str().unwrap_or_default().replace("TLS13_", "TLS_")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A certificate for clients, signed by itself, for two hosts.
    const CERTIFICATE: &str = include_str!("facts/client.pem");

    #[test]
    fn certificate_of_a_client_has_the_keys_of_other_servers() {
        let der = pem::parse(CERTIFICATE).unwrap().into_contents();
        let client = Some(Box::new(ClientCertificate::of(&CertificateDer::from(der))));
        let (protocol, cipher) = ("TLSv1.3", "TLS_AES_128_GCM_SHA256");
        let facts = Facts { protocol, cipher, server_name: Some("shop.example".into()), is_http2: false, client };
        let entries: Vec<_> = facts.entries().collect();
        assert_eq!(
            entries,
            [
                ("SSL_PROTOCOL", "TLSv1.3"),
                ("SSL_CIPHER", "TLS_AES_128_GCM_SHA256"),
                ("SSL_CLIENT_VERIFY", "SUCCESS"),
                ("SSL_TLS_SNI", "shop.example"),
                ("SSL_CLIENT_CERT", CERTIFICATE),
                ("SSL_CLIENT_S_DN", "CN=Zoë\\, \\\"the\\\" client,O=Shop,C=DE"),
                ("SSL_CLIENT_I_DN", "CN=Zoë\\, \\\"the\\\" client,O=Shop,C=DE"),
                ("SSL_CLIENT_M_SERIAL", "0A0BFF"),
                ("SSL_CLIENT_V_START", "Nov 27 01:02:56 2026 GMT"),
                ("SSL_CLIENT_V_END", "Dec  6 01:02:56 2026 GMT"),
                ("SSL_CLIENT_SAN_DNS_0", "a.example"),
                ("SSL_CLIENT_SAN_DNS_1", "b.example"),
            ]
        );
    }

    #[test]
    fn session_without_a_certificate_of_the_client_says_so() {
        let facts = Facts { protocol: "TLSv1.2", cipher: "X", server_name: None, is_http2: false, client: None };
        let expected = [("SSL_PROTOCOL", "TLSv1.2"), ("SSL_CIPHER", "X"), ("SSL_CLIENT_VERIFY", "NONE")];
        assert_eq!(facts.entries().collect::<Vec<_>>(), expected);
    }
}
