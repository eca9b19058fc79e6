//! Bytes in memory up to a limit, then in an unlinked temporary file.
//!
//! *Owns*: request bodies while they are received (`request`), the way of a response to disk while its client is slow
//! (`response`), the files of both and their common limit (`storage`, `ledger`), and the thread for file work that a
//! coroutine must not wait for (`background`). *Runs on*: see each module.

mod background;
mod ledger;
mod limits;
mod request;
mod response;
mod storage;

pub use self::background::in_background;
pub use self::ledger::SpaceWait;
pub use self::limits::default_total_of as default_total;
pub use self::request::{Content, Lack, Share, Spool, Store};
pub use self::response::{Attempts, BlockMove, ResponseSpool, WritePlace};
pub use self::storage::{Counted, Files, SpoolFile, Storage, StoreError, SystemFiles, Unusable, Written, check};
