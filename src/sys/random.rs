//! Random numbers from the kernel.

/// Returns a random number. It is another one in each process, also in processes that were forked from one.
///
/// # Panics
/// The kernel gives none: Linux does since 3.17.
pub fn random() -> u64 {
    let mut number = 0_u64;
    let length = size_of::<u64>();
    loop {
        // SAFETY: the buffer is the number, of this length.
        let filled = unsafe { libc::getrandom((&raw mut number).cast(), length, 0) };
        if usize::try_from(filled) == Ok(length) {
            return number;
        }
        let error = std::io::Error::last_os_error();
        assert!(error.kind() == std::io::ErrorKind::Interrupted, "the kernel gives no random numbers: {error}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_differ() {
        assert_ne!(super::random(), super::random());
    }
}
