//! What the operating system knows a process by: its user and group, the file with its number, and its title.
//!
//! *Owns*: the file of `--pid`, in its own file. *Runs on*: the main thread. *Invariants*: the process changes its user
//! after it has opened what only root may open, and before any code of the application runs. HOME, USER and the other
//! variables stay as they are.

mod pid_file;

use anyhow::{Context as _, anyhow, bail};

pub use self::pid_file::{change_pid_file, remove_pid_file, write_pid_file};
use crate::config::Config;
use crate::sys::{self, Account};
use crate::{logs, spool};

/// The user and the group that `--user` and `--group` name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    user: u32,
    group: u32,
    /// The groups of the process besides `group`.
    groups: Vec<u32>,
    /// The settings, for error messages: `the user shop (--user)`.
    named: String,
}

impl Identity {
    /// Looks up the user and the group in the settings. `None`: the process runs as they say already.
    ///
    /// # Errors
    /// There is no such user or group.
    pub fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let (user, group) = (config.processes.user.as_deref(), config.processes.group.as_deref());
        if user.is_none() && group.is_none() {
            return Ok(None);
        }
        let group_named = group.map(number_of_group).transpose()?;
        let (own_user, own_group) = sys::running_as();
        let identity = if let Some(user) = user {
            let (number, account) = find_user(user)?;
            let Some(group) = group_named.or_else(|| account.as_ref().map(|account| account.group)) else {
                bail!("the user {user} (--user) has no entry among the users of the system: set --group too");
            };
            let groups = account.map_or_else(|| vec![group], |account| account.groups(group));
            Self { user: number, group, groups, named: format!("the user {user} (--user)") }
        } else {
            let number = group_named.unwrap_or(own_group);
            let named = format!("the group {} (--group)", group.unwrap_or_default());
            Self { user: own_user, group: number, groups: vec![number], named }
        };
        Ok(((identity.user, identity.group) != (own_user, own_group)).then_some(identity))
    }

    /// Returns the numbers of the user and of the group.
    pub fn owner(&self) -> (u32, u32) {
        (self.user, self.group)
    }

    /// Makes this process run as the user and the group. It cannot go back.
    ///
    /// # Errors
    /// The process has no right to do so.
    pub fn assume(&self) -> anyhow::Result<()> {
        sys::run_as(self.user, self.group, &self.groups).with_context(|| {
            let (user, _) = sys::running_as();
            format!("cannot run as {}: only root may change the user or the group, and this is user {user}", self.named)
        })
    }
}

/// Returns the number of a user that a setting names, and the entry of the user, if there is one.
fn find_user(user: &str) -> anyhow::Result<(u32, Option<Account>)> {
    let looked_up = || format!("cannot look up the user {user} (--user)");
    // A name may consist of digits, so that the name is tried first, as chown(1) does.
    if let Some(account) = Account::named(user).with_context(looked_up)? {
        return Ok((account.user, Some(account)));
    }
    let number: u32 = user.parse().map_err(|_| anyhow!("there is no user {user} (--user)"))?;
    Ok((number, Account::numbered(number).with_context(looked_up)?))
}

fn number_of_group(group: &str) -> anyhow::Result<u32> {
    match sys::group_id(group).with_context(|| format!("cannot look up the group {group} (--group)"))? {
        Some(number) => Ok(number),
        None => group.parse().map_err(|_| anyhow!("there is no group {group} (--group)")),
    }
}

/// The part that a process has in a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves alone.
    Alone,
    /// It starts and watches workers.
    Supervisor,
    /// It imports the application and forks workers.
    Template,
    /// It calls the hooks of the whole service.
    Hooks,
    /// It is the worker of this number.
    Worker(usize),
}

/// Shows the part of this process and the name of the service in `ps`. The name is that of `--proc-name`, else that of
/// the application. A process that serves alone keeps its command line unless `--proc-name` is given.
pub fn show_title(config: &Config, role: Role) {
    if role == Role::Alone && config.processes.proc_name.is_none() {
        return;
    }
    let part = match role {
        Role::Alone => "maypole".to_owned(),
        Role::Supervisor => "maypole: supervisor".to_owned(),
        Role::Template => "maypole: template".to_owned(),
        Role::Hooks => "maypole: hooks".to_owned(),
        Role::Worker(number) => format!("maypole: worker {number}"),
    };
    sys::set_title(&format!("{part} [{}]", config.service_name()));
}

/// Shows the process under its title, and changes to the directory and the umask in the settings. Paths in the settings
/// are relative to that directory. (Before any other thread starts, and before the process opens a file.)
///
/// # Errors
/// A sentence: the directory cannot be entered.
pub fn enter(config: &Config, role: Role) -> Result<(), String> {
    sys::open_standard_descriptors();
    show_title(config, role);
    if let Some(dir) = &config.chdir
        && let Err(error) = std::env::set_current_dir(dir)
    {
        return Err(format!("cannot change to {}: {}", dir.display(), sys::plain(&error)));
    }
    if let Some(mask) = config.umask {
        sys::set_umask(mask);
    }
    Ok(())
}

/// Writes the PID file, unless another process of the service does, and changes to the user and the group in the
/// settings. `--check-config` only looks the names up.
///
/// # Errors
/// The file cannot be written, there is no such user or group, or the process has no right to become it.
pub fn settle(config: &Config, writes_pid_file: bool) -> anyhow::Result<()> {
    let identity = Identity::of(config)?;
    if config.check_config {
        return Ok(());
    }
    if writes_pid_file && let Some(path) = &config.processes.pid {
        write_pid_file(path, None)?;
    }
    if let Some(identity) = identity {
        let (user, group) = identity.owner();
        logs::give_to(user, group);
        identity.assume()?;
        if config.spool_dir_given {
            spool::check(&config.spool_dir).with_context(|| format!("as user {user}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn config(options: &[&str]) -> Config {
        Config::parse_from(["maypole", "m:app"].iter().chain(options)).unwrap()
    }

    fn refusal(options: &[&str]) -> String {
        Identity::of(&config(options)).unwrap_err().to_string()
    }

    #[test]
    fn user_comes_with_all_groups() {
        assert_eq!(Identity::of(&config(&[])).unwrap(), None);
        let identity = Identity::of(&config(&["--user", "daemon"])).unwrap().unwrap();
        assert_eq!(identity.user, sys::user_id("daemon").unwrap().unwrap());
        assert!(identity.groups.contains(&identity.group));
        let identity = Identity::of(&config(&["--user", "4711", "--group", "4712"])).unwrap().unwrap();
        assert_eq!((identity.owner(), identity.groups), ((4711, 4712), vec![4712]));
    }

    #[test]
    fn user_that_runs_the_process_changes_nothing() {
        let (user, group) = sys::running_as();
        let (user, group) = (user.to_string(), group.to_string());
        assert_eq!(Identity::of(&config(&["--user", &user, "--group", &group])).unwrap(), None);
        assert_eq!(Identity::of(&config(&["--group", &group])).unwrap(), None);
    }

    #[test]
    fn unknown_names_are_refused_with_their_option() {
        assert_eq!(refusal(&["--user", "no-such-user"]), "there is no user no-such-user (--user)");
        assert_eq!(refusal(&["--group", "no-such-group"]), "there is no group no-such-group (--group)");
        assert!(refusal(&["--user", "4000000000"]).ends_with("set --group too"));
    }
}
