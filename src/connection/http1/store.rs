//! Storing a request's body in memory or in a file, and waiting until there is room for it.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: nothing is received while there is no room for it. Time spent
//! waiting for room does not count against the client.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::spool::{Lack, Spool, StoreError};

use crate::connection::transport::Until;
use crate::connection::{Connection, Ended, Refusal};

impl Connection {
    /// Makes sure that `bytes` more of a body can be stored. If there is no room, waits until there is, at most until
    /// the deadline, and receives nothing meanwhile. Returns how long it waited; this time does not count against the
    /// client.
    pub(in crate::connection) fn await_room(
        &mut self,
        spool: &mut Spool,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Duration, Ended> {
        match spool.prepare(bytes, None) {
            Ok(()) => return Ok(Duration::ZERO),
            Err(Lack::Ever) => return Err(Ended::Refused(Refusal::NeverRoom)),
            Err(Lack::Now) => {}
        }
        let began = Instant::now();
        let wait = spool.begin_wait(self.transport.waker().clone());
        while let Some(wait) = &wait {
            match spool.prepare(bytes, Some(wait)) {
                Ok(()) => return Ok(began.elapsed()),
                Err(Lack::Ever) => return Err(Ended::Refused(Refusal::NeverRoom)),
                Err(Lack::Now) => {}
            }
            if Instant::now() >= deadline {
                break;
            }
            self.transport.wait(Until::at(deadline));
            if self.transport.is_broken() {
                return Err(Ended::Gone);
            }
        }
        Err(self.not_stored(&StoreError::NoRoom))
    }

    /// Appends a part of the buffer to the stored body: once for each read, however many chunks the read contained.
    pub(in crate::connection) fn store(&mut self, spool: &mut Spool, data: Range<usize>) -> Result<(), StoreError> {
        let data = self.buffer.get(data).unwrap_or_default();
        if data.is_empty() {
            return Ok(());
        }
        spool.write(data)?;
        if spool.is_in_file() {
            self.transport.turn().spend_call(data.len());
        }
        Ok(())
    }

    /// Returns the refusal for a body that cannot be stored. If the shortage is temporary, it is a 503, so that clients
    /// and proxies try again.
    pub(in crate::connection) fn not_stored(&self, error: &StoreError) -> Ended {
        self.shared.derived.bounds.storage.complain("a request body", error, "the request gets an error");
        Ended::Refused(match error {
            StoreError::NoRoom => Refusal::NoRoom,
            StoreError::Failed(_) if error.is_lack() => Refusal::DiskFull,
            StoreError::Failed(_) => Refusal::NotStored,
        })
    }
}
