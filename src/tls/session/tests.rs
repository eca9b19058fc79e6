//! Sessions against the client of the library: bytes divided and joined at any place.

use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
// The client has the library's own keys.
#[cfg(feature = "aws-lc")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc"))]
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

use super::*;
use crate::config::Config;
use crate::tls::{Certificates, Offered};

/// Returns the configuration of the server.
fn config() -> Arc<ServerConfig> {
    let files = ["--certfile", "tests/certificates/ecdsa.pem", "--keyfile", "tests/certificates/ecdsa.key"];
    let settings = Config::parse_from(["maypole", "m:app"].iter().chain(&files)).unwrap();
    Certificates::load(&settings.tls, None).unwrap().unwrap().current(Offered::All)
}

fn client(version: &'static SupportedProtocolVersion) -> ClientConnection {
    client_with(version, |_| true)
}

/// Returns a client that asks for the suites that `is_wanted` names.
fn client_with(
    version: &'static SupportedProtocolVersion,
    is_wanted: impl Fn(CipherSuite) -> bool,
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file("tests/certificates/authority.pem").unwrap()).unwrap();
    let mut provider = default_provider();
    provider.cipher_suites.retain(|suite| is_wanted(suite.suite()));
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

/// Takes what the client sends.
fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Gives the client bytes, and returns the content of which it has got all.
fn receive(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        let mut piece = vec![0; 40_000];
        while let Ok(read @ 1..) = client.reader().read(&mut piece) {
            content.extend(&piece[..read]);
        }
    }
    content
}

/// Does the handshake. The server gets the client's bytes in pieces of this many bytes.
fn pair(version: &'static SupportedProtocolVersion, piece_bytes: usize) -> (Session, ClientConnection) {
    pair_with(client(version), piece_bytes)
}

fn pair_with(mut client: ClientConnection, piece_bytes: usize) -> (Session, ClientConnection) {
    let mut session = Session::new(config(), sent(&mut client)).unwrap();
    let mut to_send = Vec::new();
    session.shake_hands(&mut to_send).unwrap();
    while session.is_handshaking() {
        receive(&mut client, &std::mem::take(&mut to_send));
        for piece in sent(&mut client).chunks(piece_bytes) {
            session.receiver().extend(piece);
            if session.has_record() {
                session.shake_hands(&mut to_send).unwrap();
            }
        }
    }
    receive(&mut client, &to_send);
    (session, client)
}

/// Sends content from the client to the server and back, and returns what the client has got.
fn echo(session: &mut Session, client: &mut ClientConnection, content: &[u8]) -> Vec<u8> {
    client.writer().write_all(content).unwrap();
    session.receiver().extend(sent(client));
    let (mut opened, mut to_send, mut sealed) = (Vec::new(), Vec::new(), vec![0; SEALED_BYTES_MAX]);
    session.open(&mut opened, 1 << 20, &mut to_send).unwrap();
    let bytes = session.seal(&opened, &mut sealed, &mut to_send).unwrap();
    assert!(to_send.is_empty());
    receive(client, &sealed[..bytes])
}

#[test]
fn sessions_of_every_suite_that_take_turns_keep_their_keys() {
    use rustls::version::{TLS12, TLS13};
    let suites = [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS13, CipherSuite::TLS13_AES_256_GCM_SHA384),
        (&TLS13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ];
    // More sessions than a thread keeps ready keys for.
    let mut sessions: Vec<_> = (0..160)
        .map(|n| suites[n % suites.len()])
        .map(|(version, wanted)| (wanted, pair_with(client_with(version, |suite| suite == wanted), 1000)))
        .collect();
    for round in 0..4 {
        for (n, (suite, (session, client))) in sessions.iter_mut().enumerate() {
            let content = pattern(1 + n * 111 + round);
            assert_eq!(echo(session, client, &content), content, "session {n}, round {round}");
            assert_eq!(client.negotiated_cipher_suite().unwrap().suite(), *suite);
            if round == 1 && client.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                client.refresh_traffic_keys().unwrap();
            }
        }
    }
}

#[test]
fn record_that_was_changed_or_cut_is_refused() {
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    for (change, version) in (0..7).flat_map(|change| versions.map(|version| (change, version))) {
        let (mut session, mut client) = pair(version, 1000);
        client.writer().write_all(b"content").unwrap();
        let mut record = sent(&mut client);
        let end = record.len();
        match change {
            0 => record[end - 1] ^= 1,
            1 => record[5] ^= 1,
            // Records that are shorter than their tags, and one that is replayed.
            2..=5 => {
                let bytes = [0, 8, 15, 23][change - 2];
                record = [23, 3, 3, 0, bytes].into_iter().chain(std::iter::repeat_n(0, bytes.into())).collect();
            }
            _ => record.extend(record.clone()),
        }
        session.receiver().extend(record);
        let (mut opened, mut to_send) = (Vec::new(), Vec::new());
        assert!(session.open(&mut opened, 1000, &mut to_send).is_err(), "change {change}, {version:?}");
        assert_eq!(opened, if change == 6 { &b"content"[..] } else { b"" });
    }
}

#[test]
fn key_exchange_is_the_one_that_both_prefer() {
    let (_, client) = pair(&rustls::version::TLS13, 1000);
    let group = client.negotiated_key_exchange_group().unwrap().name();
    let is_aws_lc = cfg!(feature = "aws-lc");
    assert_eq!(group, if is_aws_lc { rustls::NamedGroup::X25519MLKEM768 } else { rustls::NamedGroup::X25519 });
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn content_arrives_however_its_records_are_divided_and_joined(
        is_13: bool,
        handshake_piece in 1_usize..600,
        writes in proptest::collection::vec(0_usize..40_000, 1..5),
        piece in 1_usize..30_000,
        room in 1_usize..50_000,
    ) {
        let version = if is_13 { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
        let (mut session, mut client) = pair(version, handshake_piece);
        prop_assert_eq!(session.facts().protocol, if is_13 { "TLSv1.3" } else { "TLSv1.2" });
        let (mut sealed, mut wanted) = (Vec::new(), Vec::new());
        for bytes in writes {
            client.writer().write_all(&pattern(bytes)).unwrap();
            sealed.extend(sent(&mut client));
            wanted.extend(pattern(bytes));
        }
        let (mut content, mut to_send) = (Vec::new(), Vec::new());
        for part in sealed.chunks(piece) {
            session.receiver().extend(part);
            loop {
                let old = content.len();
                session.open(&mut content, room, &mut to_send).unwrap();
                prop_assert!(content.len() - old <= room);
                if !session.has_content() {
                    break;
                }
            }
        }
        prop_assert!(content == wanted, "{} of {} bytes", content.len(), wanted.len());
        prop_assert_eq!((session.unopened(), session.has_content(), session.has_ended()), (0, false, false));
        // And back, in one call for each four records.
        let mut answer = to_send;
        for part in wanted.chunks(SEALING_BYTES_MAX) {
            let mut memory = vec![0; SEALED_BYTES_MAX];
            let mut first = Vec::new();
            let bytes = session.seal(part, &mut memory, &mut first).unwrap();
            answer.extend(first);
            answer.extend(&memory[..bytes]);
        }
        session.end(&mut answer).unwrap();
        prop_assert!(receive(&mut client, &answer) == wanted);
        prop_assert!(client.process_new_packets().unwrap().peer_has_closed());
    }

    #[test]
    fn damaged_bytes_end_the_session_and_never_make_content(at in 0_usize..3000, bit in 0_u32..8) {
        let (mut session, mut client) = pair(&rustls::version::TLS13, 10_000);
        client.writer().write_all(&pattern(1000)).unwrap();
        client.writer().write_all(&pattern(1000)).unwrap();
        let mut sealed = sent(&mut client);
        let at = at % sealed.len();
        sealed[at] ^= 1 << bit;
        session.receiver().extend(sealed);
        let (mut content, mut to_send) = (Vec::new(), Vec::new());
        let opened = session.open(&mut content, 100_000, &mut to_send);
        // A damaged length may leave the session waiting for more.
        prop_assert!(opened.is_err() || session.unopened() > 0 || content == [pattern(1000), pattern(1000)].concat());
        let whole = [pattern(1000), pattern(1000)].concat();
        prop_assert!(whole.starts_with(&content), "{} bytes", content.len());
        if opened.is_err() {
            prop_assert!(!to_send.is_empty(), "an alert");
            prop_assert_eq!(session.open(&mut content, 100, &mut to_send), Err(Broken::Ended));
            prop_assert_eq!(session.end(&mut to_send), Err(Broken::Ended));
        }
    }
}

#[test]
fn client_that_ends_is_seen_after_its_content() {
    let (mut session, mut client) = pair(&rustls::version::TLS13, 10_000);
    client.writer().write_all(&pattern(100)).unwrap();
    client.send_close_notify();
    session.receiver().extend(sent(&mut client));
    let (mut content, mut to_send) = (Vec::new(), Vec::new());
    session.open(&mut content, 40, &mut to_send).unwrap();
    assert_eq!((content.len(), session.has_ended(), session.has_content()), (40, false, true));
    session.open(&mut content, 100, &mut to_send).unwrap();
    session.open(&mut content, 100, &mut to_send).unwrap();
    assert_eq!((content.len(), session.has_ended()), (100, true));
    let mut memory = vec![0; SEALED_BYTES_MAX];
    let bytes = session.seal(b"late", &mut memory, &mut to_send).unwrap();
    to_send.extend(&memory[..bytes]);
    assert_eq!(receive(&mut client, &to_send), b"late", "the server may still send");
}

#[test]
fn client_that_is_refused_gets_an_alert() {
    let mut session = Session::new(config(), b"\x16\x03\x01\x00\x04\x01\x00\x00\x00".to_vec()).unwrap();
    let mut to_send = Vec::new();
    assert!(session.shake_hands(&mut to_send).is_err());
    assert_eq!(to_send.first(), Some(&0x15), "{to_send:?}");
}

#[test]
fn message_that_never_ends_is_refused() {
    let mut session = Session::new(config(), Vec::new()).unwrap();
    let mut to_send = Vec::new();
    let endless = [&[0x16, 3, 1, 0, 5, 1, 0, 0xff, 0xff, 0][..], &[0x16, 3, 1, 0, 1, 0].repeat(30_000)].concat();
    let mut failed = None;
    for part in endless.chunks(1000) {
        session.receiver().extend(part);
        assert!(session.unopened() <= UNOPENED_BYTES_MAX + 1000);
        if let Err(broken) = session.shake_hands(&mut to_send) {
            failed = Some(broken);
            break;
        }
    }
    assert!(failed.is_some(), "{} bytes are kept", session.unopened());
}
