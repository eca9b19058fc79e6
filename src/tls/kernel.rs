//! A session whose records the kernel seals and opens: what is left of it here.
//!
//! *Owns*: the secrets from which further keys are made, and how many records may still be sealed. *Runs on*: the
//! connection's coroutine; a connection at rest also on the coroutine of the idle set. *Invariants*: no number that AES
//! takes once is taken again by the kernel. A session does not go back.

use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{CipherSuite, ConnectionTrafficSecrets, ProtocolVersion, SupportedCipherSuite};

use super::facts::iana_name;
use super::session::Broken;
use crate::sys::{TlsCipher, TlsDirection, TlsKeys, TlsVersion, has_kernel_tls};

/// The types of records without content (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// The type of records with content.
pub const CONTENT: u8 = 23;
/// The alert that ends a side in order: a warning, `close_notify` (RFC 8446 §6.1).
pub const CLOSE_NOTIFY: (u8, [u8; 2]) = (ALERT, [1, 0]);
/// A message that changes the sender's keys, and asks for no change in return (RFC 8446 §4.6.3).
pub const KEY_UPDATE: (u8, [u8; 5]) = (HANDSHAKE, [24, 0, 0, 1, 0]);
/// The same message up to the byte that asks.
const KEY_UPDATE_START: [u8; 4] = [24, 0, 0, 1];
/// The alert of a client that the user has stopped. `close_notify` follows it.
const USER_CANCELED: u8 = 90;
/// The most bytes of content in a record.
const RECORD_BYTES: usize = 16 * 1024;
/// How many records a call can begin or end besides those that it fills.
const RECORDS_BESIDES: u64 = 2;
/// What a record takes besides its content: in TLS 1.3 a head of 5 bytes, a type of 1 and a tag of 16; in TLS 1.2 with
/// AES 29.
const RECORD_EXTRA_BYTES: u64 = 22;

/// A session in the kernel.
pub struct KernelSession {
    connection: KernelConnection<ServerConnectionData>,
    version: TlsVersion,
    cipher: TlsCipher,
    /// A message without content, and the type of its record, as far as it has arrived.
    message: (u8, Vec<u8>),
    /// How many records may still be sealed with these keys.
    records_left: u64,
}

/// The keys with which the kernel goes on.
pub struct KernelKeys {
    /// For what is sent.
    pub send: TlsKeys,
    /// For what is received.
    pub receive: TlsKeys,
}

/// What a message without content means.
pub enum Told {
    /// Nothing, or its rest is missing.
    Nothing,
    /// The client sends nothing more.
    End,
    /// The client goes on with other keys. It may ask for other keys from the server.
    KeyUpdate(TlsKeys, bool),
}

/// Returns how the kernel calls the cipher of a session. `None`: it does not know it.
pub(super) fn of_kernel(connection: &UnbufferedServerConnection) -> Option<(TlsVersion, TlsCipher)> {
    let version = match connection.protocol_version()? {
        ProtocolVersion::TLSv1_3 => TlsVersion::Tls13,
        _ => TlsVersion::Tls12,
    };
    let cipher = cipher_of(connection.negotiated_cipher_suite()?.suite())?;
    has_kernel_tls(version, cipher).then_some((version, cipher))
}

/// Returns whether the kernel knows a cipher that sessions may have.
pub(super) fn is_there() -> bool {
    has_kernel_tls(TlsVersion::Tls13, TlsCipher::Aes128Gcm)
}

fn cipher_of(suite: CipherSuite) -> Option<TlsCipher> {
    let name = iana_name(suite);
    let known = [
        ("AES_128_GCM", TlsCipher::Aes128Gcm),
        ("AES_256_GCM", TlsCipher::Aes256Gcm),
        ("CHACHA20_POLY1305", TlsCipher::ChaCha20Poly1305),
    ];
    known.into_iter().find(|(part, _)| name.contains(part)).map(|(_, cipher)| cipher)
}

impl KernelSession {
    /// Takes the secrets of a session that has nothing on its way.
    ///
    /// # Errors
    /// The library does not give them. The session is lost then.
    pub(super) fn new(
        connection: UnbufferedServerConnection,
        (version, cipher): (TlsVersion, TlsCipher),
    ) -> Result<(Self, KernelKeys), Broken> {
        let (secrets, connection) = connection.dangerous_into_kernel_connection()?;
        let records_left = limit(connection.negotiated_cipher_suite()).saturating_sub(secrets.tx.0);
        let session = Self { connection, version, cipher, message: (0, Vec::new()), records_left };
        let send = session.keys(TlsDirection::Send, secrets.tx)?;
        let receive = session.keys(TlsDirection::Receive, secrets.rx)?;
        Ok((session, KernelKeys { send, receive }))
    }

    /// Returns keys in the form of the kernel.
    fn keys(
        &self,
        direction: TlsDirection,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<TlsKeys, Broken> {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
        else {
            return Err(Broken::Ended);
        };
        let mut vector = <[u8; 12]>::try_from(iv.as_ref()).map_err(|_| Broken::Ended)?;
        let counts = self.version == TlsVersion::Tls12 && self.cipher != TlsCipher::ChaCha20Poly1305;
        if counts && direction == TlsDirection::Send {
            vector = unused(vector);
        }
        TlsKeys::new(self.version, self.cipher, key.as_ref(), vector, sequence).ok_or(Broken::Ended)
    }

    /// Notes that the kernel gets this many bytes of content. Returns at most how many bytes they have more once they
    /// are sealed.
    ///
    /// # Errors
    /// The keys have sealed as many records as they may (RFC 8446 §5.5).
    pub fn spend(&mut self, bytes: usize) -> Result<u64, Broken> {
        let filled = (bytes / RECORD_BYTES) as u64;
        self.records_left = self.records_left.checked_sub(filled + RECORDS_BESIDES).ok_or(Broken::Ended)?;
        Ok((filled + 1) * RECORD_EXTRA_BYTES)
    }

    /// Takes received bytes of records without content.
    ///
    /// # Errors
    /// The client breaks the protocol, or has ended the session by an alert.
    pub fn hear(&mut self, record_type: u8, bytes: &[u8]) -> Result<Told, Broken> {
        let (message_type, message) = &mut self.message;
        if !message.is_empty() && *message_type != record_type {
            return Err(Broken::Ended);
        }
        *message_type = record_type;
        message.extend_from_slice(bytes);
        let told = match (record_type, message.as_slice()) {
            (ALERT, [_]) => return Ok(Told::Nothing),
            (ALERT, [_, 0]) => Told::End,
            (ALERT, [1, USER_CANCELED]) => Told::Nothing,
            (HANDSHAKE, part) if part.len() < 5 && KEY_UPDATE_START.starts_with(part) => return Ok(Told::Nothing),
            (HANDSHAKE, [24, 0, 0, 1, asks @ (0 | 1)]) => {
                let asks = *asks == 1;
                let secrets = self.connection.update_rx_secret()?;
                Told::KeyUpdate(self.keys(TlsDirection::Receive, secrets)?, asks)
            }
            _ => return Err(Broken::Ended),
        };
        self.message.1.clear();
        Ok(told)
    }

    /// Returns the server's next keys. The client has been told with `KEY_UPDATE` that they follow.
    ///
    /// # Errors
    /// The session is one of TLS 1.2.
    pub fn next_keys(&mut self) -> Result<TlsKeys, Broken> {
        let secrets = self.connection.update_tx_secret()?;
        self.records_left = limit(self.connection.negotiated_cipher_suite());
        self.keys(TlsDirection::Send, secrets)
    }
}

/// Returns how many records a key may seal.
fn limit(suite: SupportedCipherSuite) -> u64 {
    match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
    }
}

/// Returns an initial vector for AES with TLS 1.2 of which no number has been used. There the sender chooses the 8 bytes
/// that a record begins with, and must never choose the same again (RFC 5288 §3). `rustls` has taken the vector with the
/// number of the record added bit by bit (XOR), and the kernel counts upwards from the vector that it gets. The first
/// bit keeps the two apart: the one never changes it, and the other not within 2^32 records.
fn unused(vector: [u8; 12]) -> [u8; 12] {
    let mut unused = vector;
    unused[4] ^= 0x80;
    unused[8..].fill(0);
    unused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_of_the_kernel_never_meets_one_that_was_used() {
        for first in [0_u64, 1, 0x7fff_ffff_ffff_ffff, u64::MAX, 0x8000_0000_0000_0000, 0x1234_5678_9abc_def0] {
            let mut vector = [9; 12];
            vector[4..].copy_from_slice(&first.to_be_bytes());
            let moved = unused(vector);
            assert_eq!(moved[..4], vector[..4]);
            let start = u64::from_be_bytes(moved[4..].try_into().expect("8 bytes"));
            for (used, counted) in
                [(0, 0), (1, 1), ((1 << 24) - 1, 0), (0, (1 << 24) - 1), (1 << 62, u64::from(u32::MAX))]
            {
                assert_ne!((first ^ used) >> 63, start.wrapping_add(counted) >> 63);
            }
        }
    }

    #[test]
    fn every_suite_has_its_cipher() {
        for suite in super::super::cryptography::provider().cipher_suites {
            assert!(cipher_of(suite.suite()).is_some(), "{suite:?}");
        }
    }
}
