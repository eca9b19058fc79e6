//! Records of TLS 1.2, sealed and opened with keys that take little memory.
//!
//! A record of AES-GCM begins with the last eight bytes of its nonce. The nonce of ChaCha20-Poly1305 is not sent. *Owns*:
//! nothing. *Runs on*: the thread that seals or opens a record. *Invariants*: the nonce and the additional data are those
//! that `rustls` makes. *Source*: RFC 5246 §6.2.3.3, RFC 5288 §3, RFC 7905 §2.

use ring::aead::{Aad, Algorithm, MAX_TAG_LEN, NONCE_LEN, Nonce};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls12AeadAlgorithm, UnsupportedOperationError,
    make_tls12_aad,
};
use rustls::{ConnectionTrafficSecrets, Error, Tls12CipherSuite};

use super::Key;

/// The most bytes of a record's content (RFC 5246 §6.2.1).
const CONTENT_BYTES_MAX: usize = 16_384;

/// Returns the suite with keys that take little memory.
pub(super) fn with_little_keys(
    suite: &'static Tls12CipherSuite,
    algorithm: &'static Algorithm,
) -> &'static Tls12CipherSuite {
    Box::leak(Box::new(Tls12CipherSuite {
        common: super::copied(&suite.common),
        prf_provider: suite.prf_provider,
        kx: suite.kx,
        sign: suite.sign,
        aead_alg: Box::leak(Box::new(LittleKeys { algorithm, library: suite.aead_alg })),
    }))
}

/// An algorithm whose keys take little memory.
struct LittleKeys {
    algorithm: &'static Algorithm,
    library: &'static dyn Tls12AeadAlgorithm,
}

impl LittleKeys {
    /// Returns the records of one direction. `fixed` and `explicit` are the two parts of the initial nonce.
    fn records(&self, key: AeadKey, fixed: &[u8], explicit: &[u8]) -> Records {
        let mut initial = [0; NONCE_LEN];
        initial[..fixed.len()].copy_from_slice(fixed);
        initial[fixed.len()..][..explicit.len()].copy_from_slice(explicit);
        let sent_from = NONCE_LEN - self.library.key_block_shape().explicit_nonce_len;
        Records { key: Key::new(self.algorithm, key, Iv::new(initial)), sent_from }
    }
}

impl Tls12AeadAlgorithm for LittleKeys {
    fn encrypter(&self, key: AeadKey, fixed: &[u8], explicit: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(self.records(key, fixed, explicit))
    }

    fn decrypter(&self, key: AeadKey, fixed: &[u8]) -> Box<dyn MessageDecrypter> {
        Box::new(self.records(key, fixed, &[]))
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.library.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        fixed: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.library.extract_keys(key, fixed, explicit)
    }
}

/// The records of one direction.
struct Records {
    key: Key,
    /// The byte of the nonce from which on a record holds it: its length if no part of it is sent.
    sent_from: usize,
}

impl Records {
    /// Returns the bytes of the nonce that a record holds.
    const fn sent_bytes(&self) -> usize {
        NONCE_LEN - self.sent_from
    }
}

impl MessageEncrypter for Records {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, sequence: u64) -> Result<OutboundOpaqueMessage, Error> {
        let content_bytes = message.payload.len();
        let mut payload = PrefixedPayload::with_capacity(self.encrypted_payload_len(content_bytes));
        let nonce = self.key.nonce(sequence);
        payload.extend_from_slice(&nonce.as_ref()[self.sent_from..]);
        payload.extend_from_chunks(&message.payload);
        let additional = Aad::from(make_tls12_aad(sequence, message.typ, message.version, content_bytes));
        let content = &mut payload.as_mut()[self.sent_bytes()..];
        let tag = self.key.with_ready(|key| {
            key.seal_in_place_separate_tag(nonce, additional, content).map_err(|_| Error::EncryptError)
        })?;
        payload.extend_from_slice(tag.as_ref());
        Ok(OutboundOpaqueMessage::new(message.typ, message.version, payload))
    }

    fn encrypted_payload_len(&self, content_bytes: usize) -> usize {
        self.sent_bytes() + content_bytes + MAX_TAG_LEN
    }
}

impl MessageDecrypter for Records {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let sent_bytes = self.sent_bytes();
        let Some(content_bytes) = message.payload.len().checked_sub(sent_bytes + MAX_TAG_LEN) else {
            return Err(Error::DecryptError);
        };
        let mut nonce = *self.key.nonce(sequence).as_ref();
        nonce[self.sent_from..].copy_from_slice(&message.payload[..sent_bytes]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let additional = Aad::from(make_tls12_aad(sequence, message.typ, message.version, content_bytes));
        let payload = &mut message.payload;
        let opened_bytes = self.key.with_ready(|key| {
            let opened = key.open_within(nonce, additional, payload, sent_bytes..);
            opened.map(|opened| opened.len()).map_err(|_| Error::DecryptError)
        })?;
        if opened_bytes > CONTENT_BYTES_MAX {
            return Err(Error::PeerSentOversizedRecord);
        }
        message.payload.truncate(opened_bytes);
        Ok(message.into_plain_message())
    }
}
