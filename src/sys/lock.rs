//! A mutex and a condition variable that ignore poisoning.
//!
//! *Runs on*: any thread, and coroutines. *Invariants*: a coroutine never suspends while it holds a lock. Code under a
//! lock never leaves the state half changed across a statement that can panic.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// A mutex that stays usable after a thread or a coroutine has panicked while it held the lock.
///
/// The standard library calls such a mutex poisoned and returns an error from each later `lock`. This type ignores the
/// error, because the state under the lock is whole. Otherwise the panic of one coroutine would end every coroutine
/// that takes the same lock, and with them the server.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Makes a lock around a value.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if no thread holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Returns the value without locking: no other thread can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable for the guard of a [`Lock`]. A wait takes the lock again when it ends, and ignores poisoning
/// just as `Lock::lock` does.
#[derive(Debug, Default)]
pub struct Condition(Condvar);

impl Condition {
    /// Makes a condition without waiters.
    pub const fn new() -> Self {
        Self(Condvar::new())
    }

    /// Wakes all threads that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits until the thread is woken, or without a reason.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as `wait` does, at most for `timeout`.
    pub fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> MutexGuard<'a, T> {
        self.0.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until `goes_on` returns false.
    pub fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        goes_on: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        self.0.wait_while(guard, goes_on).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `goes_on` returns false, at most for `timeout`.
    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
        goes_on: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        self.0.wait_timeout_while(guard, timeout, goes_on).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    /// Returns a lock around 7, which a thread held when it panicked.
    fn poisoned() -> Arc<Lock<u32>> {
        let lock = Arc::new(Lock::new(0));
        let its = Arc::clone(&lock);
        let holder = thread::spawn(move || {
            let mut value = its.lock();
            *value = 7;
            panic!("a panic under the lock, as the test wants it");
        });
        assert!(holder.join().is_err());
        assert!(lock.0.is_poisoned());
        lock
    }

    #[test]
    fn lock_after_a_panic_is_used_on() {
        let mut lock = poisoned();
        assert_eq!(*lock.lock(), 7);
        assert_eq!(lock.try_lock().as_deref(), Some(&7));
        assert_eq!(Arc::get_mut(&mut lock).map(Lock::get_mut), Some(&mut 7));
    }

    #[test]
    fn try_lock_of_a_held_lock_returns_nothing() {
        let lock = Lock::new(());
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(held);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn waits_after_a_panic_return_the_guard() {
        let (lock, condition) = (poisoned(), Condition::default());
        let mut value = condition.wait_timeout(lock.lock(), Duration::ZERO);
        value = condition.wait_timeout_while(value, Duration::ZERO, |_| true);
        value = condition.wait_while(value, |value| *value != 7);
        assert_eq!(*value, 7);
    }
}
