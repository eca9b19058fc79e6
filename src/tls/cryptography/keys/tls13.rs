//! Records of TLS 1.3, sealed and opened with keys that take little memory.
//!
//! *Owns*: nothing. *Runs on*: the thread that seals or opens a record. *Invariants*: the nonce, the additional data and
//! the padding are those that `rustls` makes. *Source*: RFC 8446 §5.2, §5.3.

use ring::aead::{Aad, Algorithm};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage,
    OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm, UnsupportedOperationError, make_tls13_aad,
};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, Tls13CipherSuite};

use super::Key;

/// Returns the suite with keys that take little memory.
pub(super) fn with_little_keys(
    suite: &'static Tls13CipherSuite,
    algorithm: &'static Algorithm,
) -> &'static Tls13CipherSuite {
    Box::leak(Box::new(Tls13CipherSuite {
        common: super::copied(&suite.common),
        hkdf_provider: suite.hkdf_provider,
        aead_alg: Box::leak(Box::new(LittleKeys { algorithm, library: suite.aead_alg })),
        quic: None,
    }))
}

/// An algorithm whose keys take little memory.
struct LittleKeys {
    algorithm: &'static Algorithm,
    library: &'static dyn Tls13AeadAlgorithm,
}

impl Tls13AeadAlgorithm for LittleKeys {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Records(Key::new(self.algorithm, key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Records(Key::new(self.algorithm, key, iv)))
    }

    fn key_len(&self) -> usize {
        self.library.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.library.extract_keys(key, iv)
    }
}

/// The records of one direction.
struct Records(Key);

impl MessageEncrypter for Records {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, sequence: u64) -> Result<OutboundOpaqueMessage, Error> {
        let bytes = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(bytes);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[u8::from(message.typ)]);
        let (nonce, additional) = (self.0.nonce(sequence), Aad::from(make_tls13_aad(bytes)));
        self.0.with_ready(|key| {
            key.seal_in_place_append_tag(nonce, additional, &mut payload).map_err(|_| Error::EncryptError)
        })?;
        // Every sealed record looks like one of application data in TLS 1.2.
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, content_bytes: usize) -> usize {
        content_bytes + 1 + self.0.algorithm.tag_len()
    }
}

impl MessageDecrypter for Records {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let bytes = message.payload.len();
        if bytes < self.0.algorithm.tag_len() {
            return Err(Error::DecryptError);
        }
        let (nonce, additional) = (self.0.nonce(sequence), Aad::from(make_tls13_aad(bytes)));
        let payload = &mut message.payload;
        let opened_bytes = self.0.with_ready(|key| {
            key.open_in_place(nonce, additional, payload).map(|opened| opened.len()).map_err(|_| Error::DecryptError)
        })?;
        message.payload.truncate(opened_bytes);
        message.into_tls13_unpadded_message()
    }
}
