//! The mode and the owner of a file that the server creates, as they are written in settings.
//!
//! *Owns*: nothing; text in, rights out. This module looks up no user or group. *Runs on*: the main thread, while the
//! settings are read. *Source*: chmod(1) for octal modes, chown(1) for `USER[:GROUP]`.

use std::fmt;

/// The default mode of a unix socket's file: every user may connect, as with gunicorn, whose umask is 0. A proxy that
/// runs as another user needs the right to write.
const SOCKET_MODE: u32 = 0o777;

/// The mode and the owner of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRights {
    /// The mode bits.
    pub mode: u32,
    /// The owner. `None` means the user that runs the process.
    pub owner: Option<Owner>,
}

impl Default for FileRights {
    fn default() -> Self {
        Self { mode: SOCKET_MODE, owner: None }
    }
}

/// An owner as in chown(1): a user, a group, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name or number of the user. `None` leaves the user unchanged.
    pub user: Option<String>,
    /// Name or number of the group. `None` leaves the group unchanged.
    pub group: Option<String>,
}

impl Owner {
    /// Reads `USER`, `USER:GROUP` or `:GROUP`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let is_name = |name: &str| !name.contains([':', '\0', '/', ' ']);
        let complete = group.is_none_or(|group| !group.is_empty()) && !(user.is_empty() && group.is_none());
        if !complete || !is_name(user) || !group.is_none_or(is_name) {
            return Err("expected USER, USER:GROUP or :GROUP, by name or number, such as shop:www-data".to_owned());
        }
        Ok(Self { user: (!user.is_empty()).then(|| user.to_owned()), group: group.map(str::to_owned) })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

/// Reads mode bits in octal, such as 660.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    bits(text).ok_or_else(|| "expected an octal number from 0 to 777, such as 660".to_owned())
}

/// Reads the mode bits that a umask removes, in octal.
pub(super) fn umask(text: &str) -> Result<u32, String> {
    bits(text).ok_or_else(|| "expected an octal number from 0 to 777, such as 027".to_owned())
}

fn bits(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8).ok().filter(|bits| *bits <= 0o777 && !digits.starts_with('+'))
}

/// Returns the mode and the owner for a unix socket's file.
pub(super) fn of_socket(mode: Option<u32>, umask: Option<u32>, owner: Option<&Owner>) -> FileRights {
    FileRights { mode: mode.unwrap_or(SOCKET_MODE & !umask.unwrap_or(0)), owner: owner.cloned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn owner_of_each_form_is_read_and_printed() {
        for (text, user, group) in [
            ("shop", Some("shop"), None),
            ("shop:www-data", Some("shop"), Some("www-data")),
            (":www-data", None, Some("www-data")),
            ("1000:33", Some("1000"), Some("33")),
        ] {
            let owner = Owner::parse(text).unwrap();
            assert_eq!((owner.user.as_deref(), owner.group.as_deref()), (user, group));
            assert_eq!(owner.to_string(), text);
        }
    }

    #[test]
    fn owner_that_is_none_is_refused() {
        for text in ["", ":", "shop:", "a:b:c", "a b", "a/b", "a\0"] {
            assert!(Owner::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn socket_is_open_to_all_unless_a_setting_says_otherwise() {
        assert_eq!(of_socket(None, None, None).mode, 0o777);
        assert_eq!(of_socket(None, Some(0o117), None).mode, 0o660);
        assert_eq!(of_socket(Some(0o600), Some(0o117), None).mode, 0o600);
    }
}
