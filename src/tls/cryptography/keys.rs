//! The keys of records, which take little memory while a session is idle.
//!
//! A key that is ready for use has 544 bytes: the rounds of AES, and the tables of its authentication. A session keeps
//! two keys as they were derived, in 72 bytes each. A thread makes a key ready at its first record, in a fraction of a
//! microsecond, and keeps the keys that it has used last. *Owns*: the ready keys. *Runs on*: the thread that seals or
//! opens a record. *Invariants*: a number belongs to one key as long as the process runs.

mod tls12;
mod tls13;

use std::cell::RefCell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ring::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use rustls::crypto::cipher::{AeadKey, Iv, Nonce};
use rustls::crypto::ring::ALL_CIPHER_SUITES;
use rustls::{CipherSuite, CipherSuiteCommon, Error, SupportedCipherSuite};

/// The most ready keys of a thread, which take 140 KB: the two keys of 125 sessions. A handshake takes four numbers. They
/// spread evenly over a prime number of places.
const READY_MAX: usize = 251;

/// The number of the next key.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A ready key with its number.
type Ready = Box<(usize, LessSafeKey)>;

thread_local! {
    /// The ready keys, each in the place that its number gives it. It is empty on a thread that never needs one.
    static READY: RefCell<Vec<Option<Ready>>> = const { RefCell::new(Vec::new()) };
}

/// Every suite that the library has, with the keys of this file.
static SUITES: LazyLock<Vec<SupportedCipherSuite>> =
    LazyLock::new(|| ALL_CIPHER_SUITES.iter().map(|suite| with_little_keys(*suite)).collect());

/// Returns every suite that sessions may use.
pub(super) fn suites() -> &'static [SupportedCipherSuite] {
    &SUITES
}

/// Returns the suite with keys that take little memory. The suites live as long as the process. There are nine.
fn with_little_keys(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let Some(algorithm) = algorithm(suite.suite()) else { return suite };
    match suite {
        SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(tls13::with_little_keys(suite, algorithm)),
        SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(tls12::with_little_keys(suite, algorithm)),
    }
}

/// Returns what seals the records of a suite, if this file knows it.
fn algorithm(suite: CipherSuite) -> Option<&'static Algorithm> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => &AES_128_GCM,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => &AES_256_GCM,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
        _ => return None,
    })
}

fn copied(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = *common;
    CipherSuiteCommon { suite, hash_provider, confidentiality_limit }
}

/// A key of one direction.
struct Key {
    number: usize,
    algorithm: &'static Algorithm,
    derived: AeadKey,
    iv: Iv,
}

impl Key {
    fn new(algorithm: &'static Algorithm, derived: AeadKey, iv: Iv) -> Self {
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), algorithm, derived, iv }
    }

    /// Calls `action` with the key once it is ready.
    fn with_ready<T>(&self, action: impl FnOnce(&LessSafeKey) -> Result<T, Error>) -> Result<T, Error> {
        READY.with_borrow_mut(|ready| {
            if ready.is_empty() {
                ready.resize_with(READY_MAX, || None);
            }
            let place = &mut ready[self.number % READY_MAX];
            if let Some(ready) = place
                && ready.0 == self.number
            {
                return action(&ready.1);
            }
            let key = UnboundKey::new(self.algorithm, self.derived.as_ref());
            let key = key.map_err(|_| Error::General("a key of the wrong length".to_owned()))?;
            let key = (self.number, LessSafeKey::new(key));
            let ready = match place {
                // The memory of the key before is used again.
                Some(ready) => {
                    **ready = key;
                    ready
                }
                None => place.insert(Box::new(key)),
            };
            action(&ready.1)
        })
    }

    /// Returns the nonce of a record: the initial one, and the record's number added bit by bit.
    fn nonce(&self, sequence: u64) -> ring::aead::Nonce {
        ring::aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, sequence).0)
    }
}
