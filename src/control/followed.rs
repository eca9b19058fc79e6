//! A service that a command follows for a long time: `maypole top`.
//!
//! *Owns*: which process it is at the moment. *Runs on*: the threads that ask. *Invariants*: the service is looked for
//! again once its process does not respond, because a new supervisor has another number.

use super::client::{Failure, Target};
use super::command::tell;
use super::{Outcome, Request};
use crate::sys::Lock;
use crate::top;

/// A service that is followed.
struct Followed<F> {
    /// Finds it.
    find: F,
    /// The process that has responded last.
    target: Lock<Option<Target>>,
}

/// Shows a service on a live page.
pub(super) fn top(find: impl Fn() -> Result<Target, String> + Send + Sync + 'static) -> Outcome {
    // A service of another user shows nothing.
    if let Ok(Err(Failure::Refused(sentence))) = find().map(|target| target.show("/livez")) {
        return Outcome::Refused(sentence);
    }
    match top::run(Followed { find, target: Lock::new(None) }) {
        Ok(page) => Outcome::Done(page.unwrap_or_default()),
        Err(sentence) => Outcome::Failed(sentence),
    }
}

impl<F: Fn() -> Result<Target, String> + Send + Sync + 'static> top::Service for Followed<F> {
    fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let known = self.target.lock().clone();
        if let Some(body) = known.and_then(|target| target.show(path).ok()) {
            return Ok(body);
        }
        let target = (self.find)()?;
        let body = target.show(path).map_err(Failure::into_sentence)?;
        *self.target.lock() = Some(target);
        Ok(body)
    }

    fn reload(&self) -> String {
        let target = self.target.lock().clone().map_or_else(|| (self.find)(), Ok);
        target.map_or_else(
            |sentence| sentence,
            |target| tell(&target, Request::Reload).map_or_else(Failure::into_sentence, |response| response.sentence),
        )
    }
}
