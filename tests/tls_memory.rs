//! The memory of a client that is idle in a session of TLS.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use maypole::config::Config;
use maypole::tls::{Certificates, Facts, Offered, SEALED_BYTES_MAX, Session};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

/// The most bytes of an idle session with its facts, by version, besides the state of its connection, which takes about
/// 200.
const BYTES_MAX: [(&SupportedProtocolVersion, isize); 2] =
    [(&rustls::version::TLS13, 2560), (&rustls::version::TLS12, 2560)];

/// The first sessions also make what later ones share: the keys of tickets, and the ready keys of a thread, of which it
/// keeps 251.
const SHARING_SESSIONS: usize = 251;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// Counts the bytes that the calling thread holds.
struct Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + layout.size().cast_signed());
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size().cast_signed());
        // SAFETY: passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn client(version: &'static SupportedProtocolVersion) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file("tests/certificates/authority.pem").unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn receive(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
    }
}

/// Adds what `action` allocates and does not free.
fn counted<T>(total: &mut isize, action: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    let value = action();
    *total += HELD.get() - before;
    value
}

#[test]
fn idle_client_has_little_memory() {
    let files = ["--certfile", "tests/certificates/ecdsa.pem", "--keyfile", "tests/certificates/ecdsa.key"];
    let settings = Config::parse_from(["maypole", "m:app"].iter().chain(&files)).unwrap();
    let certificates = Certificates::load(&settings.tls, None).unwrap().unwrap();
    let sessions = BYTES_MAX.into_iter().flat_map(|one| (1..=SHARING_SESSIONS + 1).map(move |number| (one, number)));
    for ((version, bytes_max), number) in sessions {
        let mut held = 0;
        let mut client = client(version);
        let hello = sent(&mut client);
        let mut session: Box<Session> =
            counted(&mut held, || Box::new(Session::new(certificates.current(Offered::All), hello.clone()).unwrap()));
        loop {
            let to_send = counted(&mut held, || {
                let mut to_send = Vec::with_capacity(16_384);
                session.shake_hands(&mut to_send).unwrap();
                to_send
            });
            receive(&mut client, &to_send);
            counted(&mut held, || drop(to_send));
            if !session.is_handshaking() {
                break;
            }
            let reply = sent(&mut client);
            counted(&mut held, || session.receiver().extend(&reply));
        }
        let facts: Arc<Facts> = counted(&mut held, || Arc::new(session.facts()));
        // One request and its response.
        std::io::Write::write_all(&mut client.writer(), &[7; 400]).unwrap();
        let request = sent(&mut client);
        let mut memory = vec![0; SEALED_BYTES_MAX];
        let mut content = Vec::with_capacity(1000);
        counted(&mut held, || {
            let mut to_send = Vec::new();
            session.receiver().extend(&request);
            session.open(&mut content, 1000, &mut to_send).unwrap();
            session.seal(&[7; 300], &mut memory, &mut to_send).unwrap();
            session.rest();
        });
        assert_eq!(content.len(), 400);
        assert!(number <= SHARING_SESSIONS || held <= bytes_max, "{:?}: {held} bytes", facts.protocol);
        assert!(number <= SHARING_SESSIONS || held > 1500, "{held} bytes are not believable");
    }
}
