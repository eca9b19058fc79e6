//! The keys of records in TLS 1.3, which take little memory while a session is idle.
//!
//! A key that is ready for use has 544 bytes: the rounds of AES, and the tables of its authentication. A session keeps
//! two keys as they were derived, in 72 bytes each. A thread makes a key ready at its first record, in a fraction of a
//! microsecond, and keeps the keys that it has used last. *Owns*: the ready keys. *Runs on*: the thread that seals or
//! opens a record. *Invariants*: a number belongs to one key as long as the process runs. The nonce, the additional data
//! and the padding are those that `rustls` makes. *Source*: RFC 8446 §5.2, §5.3.

use std::cell::RefCell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm, UnsupportedOperationError,
    make_tls13_aad,
};
use rustls::crypto::ring::ALL_CIPHER_SUITES;
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

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

/// Every suite that the library has. Those of TLS 1.3 have the keys of this file.
static SUITES: LazyLock<Vec<SupportedCipherSuite>> =
    LazyLock::new(|| ALL_CIPHER_SUITES.iter().map(|suite| with_little_keys(*suite)).collect());

/// Returns every suite that sessions may use.
pub(super) fn suites() -> &'static [SupportedCipherSuite] {
    &SUITES
}

fn with_little_keys(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(tls13) = suite else { return suite };
    let algorithm = match tls13.common.suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256_GCM,
        CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128_GCM,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
        _ => return suite,
    };
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = tls13.common;
    // The suites live as long as the process. There are three.
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite, hash_provider, confidentiality_limit },
        hkdf_provider: tls13.hkdf_provider,
        aead_alg: Box::leak(Box::new(LittleKeys { algorithm, library: tls13.aead_alg })),
        quic: None,
    })))
}

/// An algorithm whose keys take little memory.
struct LittleKeys {
    algorithm: &'static Algorithm,
    library: &'static dyn Tls13AeadAlgorithm,
}

impl LittleKeys {
    fn key(&self, derived: AeadKey, iv: Iv) -> Key {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Key { number, algorithm: self.algorithm, derived, iv }
    }
}

impl Tls13AeadAlgorithm for LittleKeys {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(self.key(key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(self.key(key, iv))
    }

    fn key_len(&self) -> usize {
        self.library.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.library.extract_keys(key, iv)
    }
}

/// A key of one direction.
struct Key {
    number: usize,
    algorithm: &'static Algorithm,
    derived: AeadKey,
    iv: Iv,
}

impl Key {
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

    fn nonce(&self, sequence: u64) -> ring::aead::Nonce {
        ring::aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, sequence).0)
    }
}

impl MessageEncrypter for Key {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, sequence: u64) -> Result<OutboundOpaqueMessage, Error> {
        let bytes = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(bytes);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[u8::from(message.typ)]);
        let (nonce, additional) = (self.nonce(sequence), Aad::from(make_tls13_aad(bytes)));
        self.with_ready(|key| {
            key.seal_in_place_append_tag(nonce, additional, &mut payload).map_err(|_| Error::EncryptError)
        })?;
        // Every sealed record looks like one of application data in TLS 1.2.
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, content_bytes: usize) -> usize {
        content_bytes + 1 + self.algorithm.tag_len()
    }
}

impl MessageDecrypter for Key {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let bytes = message.payload.len();
        if bytes < self.algorithm.tag_len() {
            return Err(Error::DecryptError);
        }
        let (nonce, additional) = (self.nonce(sequence), Aad::from(make_tls13_aad(bytes)));
        let payload = &mut message.payload;
        let opened_bytes = self.with_ready(|key| {
            key.open_in_place(nonce, additional, payload).map(|opened| opened.len()).map_err(|_| Error::DecryptError)
        })?;
        message.payload.truncate(opened_bytes);
        message.into_tls13_unpadded_message()
    }
}
