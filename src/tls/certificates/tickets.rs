//! Tickets with which clients resume a session, the same in each worker.
//!
//! *Owns*: the keys of the last hours. *Runs on*: the threads of the handshakes. *Invariants*: processes with the same
//! seed and the same rules for client certificates have the same keys, and never speak to each other. A key encrypts
//! for six hours and decrypts for twelve. *Source*: RFC 5077, RFC 8446 §4.6.1; RFC 5869 for the derivation.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;

use crate::sys::Lock;

/// A key encrypts for this long, in seconds.
const TURN_S: u64 = 6 * 60 * 60;
/// A ticket is of use for at most this long, in seconds.
const LIFETIME_S: u32 = 12 * 60 * 60;
/// The bytes at the start of a ticket that name its key.
const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// The length of a seed, in bytes.
pub const SEED_BYTES: usize = 32;

/// What the keys of all processes of a service are derived from.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed([u8; SEED_BYTES]);

impl Seed {
    /// Makes a new one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> Result<Self, String> {
        let mut bytes = [0; SEED_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random numbers".to_owned())?;
        Ok(Self(bytes))
    }

    /// Makes a seed again of its bytes. `None`: they are not that many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the bytes, for another process of the service.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

/// Makes and reads tickets.
pub(super) struct Tickets {
    seed: Seed,
    /// What the tickets depend on: a client that was let in by other rules shows its certificate again.
    rules: Vec<u8>,
    /// The keys of this turn and of the one before.
    keys: Lock<Vec<Key>>,
    random: SystemRandom,
}

struct Key {
    turn: u64,
    name: [u8; NAME_BYTES],
    cipher: LessSafeKey,
}

impl Tickets {
    /// Makes tickets whose keys depend on the seed and on `rules`.
    pub(super) fn new(seed: Seed, rules: Vec<u8>) -> Self {
        Self { seed, rules, keys: Lock::new(Vec::new()), random: SystemRandom::new() }
    }

    fn key(&self, turn: u64) -> Option<Key> {
        let mut bytes = [0; NAME_BYTES + KEY_BYTES];
        let secret = Salt::new(HKDF_SHA256, &self.rules).extract(&self.seed.0);
        let turn_bytes = turn.to_be_bytes();
        let info = [b"maypole tickets".as_slice(), &turn_bytes];
        secret.expand(&info, Length(bytes.len())).and_then(|derived| derived.fill(&mut bytes)).ok()?;
        let (name, key) = bytes.split_first_chunk()?;
        Some(Key { turn, name: *name, cipher: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).ok()?) })
    }

    /// Calls `with` with the keys of this turn and of the one before.
    fn with_keys<T>(&self, now: SystemTime, with: impl FnOnce(&[Key]) -> Option<T>) -> Option<T> {
        let turn = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / TURN_S;
        let mut keys = self.keys.lock();
        if keys.first().is_none_or(|key| key.turn != turn) {
            *keys = [turn, turn.saturating_sub(1)].into_iter().filter_map(|turn| self.key(turn)).collect();
        }
        with(&keys)
    }

    fn encrypt_at(&self, now: SystemTime, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        // Random, because the processes do not know of each other's tickets. A key sees far fewer than 2^32.
        self.random.fill(&mut nonce).ok()?;
        self.with_keys(now, |keys| {
            let key = keys.first()?;
            let mut ticket = [&key.name[..], &nonce, plain].concat();
            let sealed = &mut ticket[NAME_BYTES + NONCE_LEN..];
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.cipher.seal_in_place_separate_tag(nonce, Aad::from(&key.name), sealed).ok()?;
            ticket.extend_from_slice(tag.as_ref());
            Some(ticket)
        })
    }

    fn decrypt_at(&self, now: SystemTime, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        self.with_keys(now, |keys| {
            // The name is no secret: it stands in the ticket as it is.
            let key = keys.iter().find(|key| key.name == *name)?;
            let mut bytes = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let length = key.cipher.open_in_place(nonce, Aad::from(&key.name), &mut bytes).ok()?.len();
            bytes.truncate(length);
            Some(bytes)
        })
    }
}

/// The length of what is derived.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(SystemTime::now(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(SystemTime::now(), ticket)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;

    const PLAIN: &[u8] = b"the state of a session";

    fn tickets(seed: u8, rules: &[u8]) -> Tickets {
        Tickets::new(Seed([seed; SEED_BYTES]), rules.to_vec())
    }

    fn at(turns: u64, seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs((100_000 + turns) * TURN_S + seconds)
    }

    #[test]
    fn ticket_of_one_worker_is_read_by_another() {
        let ticket = tickets(1, b"r").encrypt_at(at(0, 5), PLAIN).unwrap();
        assert_eq!(tickets(1, b"r").decrypt_at(at(0, 9), &ticket).unwrap(), PLAIN);
        assert_eq!(tickets(2, b"r").decrypt_at(at(0, 9), &ticket), None, "another service");
        assert_eq!(tickets(1, b"s").decrypt_at(at(0, 9), &ticket), None, "other rules for clients");
        assert_ne!(tickets(1, b"r").encrypt_at(at(0, 5), PLAIN).unwrap(), ticket);
    }

    #[test]
    fn ticket_is_of_use_for_six_to_twelve_hours() {
        let (maker, reader) = (tickets(1, b""), tickets(1, b""));
        let ticket = maker.encrypt_at(at(0, 0), PLAIN).unwrap();
        for (time, is_read) in [(at(0, TURN_S - 1), true), (at(1, TURN_S - 1), true), (at(2, 0), false)] {
            assert_eq!(reader.decrypt_at(time, &ticket).is_some(), is_read);
        }
        let late = maker.encrypt_at(at(0, TURN_S - 1), PLAIN).unwrap();
        assert!(reader.decrypt_at(at(1, 0), &late).is_some());
    }

    #[test]
    fn ticket_that_was_changed_is_none() {
        let tickets = tickets(1, b"");
        let ticket = tickets.encrypt_at(at(0, 0), PLAIN).unwrap();
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.decrypt_at(at(0, 0), &changed), None);
            assert_eq!(tickets.decrypt_at(at(0, 0), &ticket[..index]), None);
        }
    }

    #[test]
    fn seed_is_made_again_of_its_bytes() {
        let seed = Seed::new().unwrap();
        assert_eq!(Seed::from_bytes(seed.as_bytes()), Some(seed.clone()));
        assert_ne!(Seed::new().unwrap(), seed);
        assert_eq!((Seed::from_bytes(b"short"), format!("{seed:?}")), (None, "Seed".to_owned()));
    }
}
