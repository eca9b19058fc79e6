//! The settings of what a service shows of itself.
//!
//! *Owns*: `StatusSettings`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*:
//! as for `Config`. Without any of these settings, nothing listens on the network besides `--bind`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::statsd::StatsdSettings;
use super::units::{duration_text, parse_duration};
use super::{Config, ListenAddress, Network, STATUS};

/// The settings of what a service shows of itself.
#[derive(Debug, Clone, Args)]
pub struct StatusSettings {
    /// Show what the service does on this address: probes, metrics, and a page for people. Repeatable. Default: none
    ///
    /// The forms are those of `--bind`; a port alone is one of 127.0.0.1. The address answers while Python is stuck. It
    /// can change nothing. See [status and metrics](../howto/status.md).
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = STATUS)]
    pub status_bind: Vec<ListenAddress>,

    /// Let these networks read `--status-bind`, or `*`. Answer 403 to others
    ///
    /// Clients of a unix socket are always taken: its mode says who may connect.
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = Network::parse)]
    #[arg(default_value = "127.0.0.1,::1", help_heading = STATUS)]
    pub status_allow: Vec<Network>,

    /// Take the commands `maypole status`, `reload` and others on this unix socket, too. Default: an abstract name only
    ///
    /// Only its owner may connect. Commands find a service on the same machine without it. The file is for commands of
    /// another container, which shares the directory.
    #[arg(long, value_name = "FILE", help_heading = STATUS)]
    pub control: Option<PathBuf>,

    /// Log all stacks once if no thread gets the GIL, or no request ends, for this long. 0 never does
    ///
    /// Requests that take long are no reason while further ones can begin. After half of the time a line says in which
    /// code the threads are if all of them are busy and requests wait. A process that doubles its memory has a line, too.
    /// See [alarms](../howto/status.md#alarms).
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s", help_heading = STATUS)]
    pub alarm_after: Duration,

    /// Log a request that takes this long, with the code in which it spent most of its time. 0 logs none
    ///
    /// The line comes when the request ends, and once before if it takes ten times as long. It has the time in each
    /// phase. Only requests that take this long already are looked at. See
    /// [slow requests](../howto/status.md#slow-requests).
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0s", help_heading = STATUS)]
    pub slow_request: Duration,

    /// Numbers for StatsD.
    #[command(flatten)]
    pub statsd: StatsdSettings,
}

/// Reads an address. A port alone is one of this machine.
fn address(text: &str) -> Result<ListenAddress, String> {
    match text.trim().trim_start_matches(':').parse::<u16>() {
        Ok(port) => Ok(ListenAddress::of_parts(None, Some(port))),
        Err(_) => ListenAddress::parse(text),
    }
}

impl StatusSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        let control = self.control.as_deref().map(|path| path.display().to_string());
        let mut settings = vec![
            ("status_bind", list(&mut self.status_bind.iter().map(ToString::to_string))),
            ("status_allow", list(&mut self.status_allow.iter().map(ToString::to_string))),
            ("control", control.unwrap_or_else(|| "none".to_owned())),
            ("alarm_after", duration_text(self.alarm_after)),
            ("slow_request", duration_text(self.slow_request)),
        ];
        settings.extend(self.statsd.settings());
        settings
    }
}

impl Config {
    /// Checks that the networks which may read the status can reach it.
    pub(super) fn check_status(&self) -> Result<(), String> {
        let status = &self.status;
        let is_local = |network: &Network| network.contains_only_loopback();
        for address in &status.status_bind {
            let ListenAddress::Tcp { host, .. } = address else { continue };
            let is_loopback =
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
            if !is_loopback && status.status_allow.iter().all(is_local) {
                return Err(format!(
                    "--status-bind {address} can be reached from other machines: name those that may read it with \
                     --status-allow, such as --status-allow 10.0.0.0/8"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_alone_is_one_of_this_machine() {
        for text in ["9100", ":9100", "127.0.0.1:9100"] {
            assert_eq!(address(text).unwrap().to_string(), "127.0.0.1:9100");
        }
        assert_eq!(address("unix:/run/status").unwrap().to_string(), "unix:/run/status");
        assert!(address("99999").is_err());
    }

    #[test]
    fn status_of_a_public_address_names_its_readers() {
        let check = |words: &[&str]| {
            let words = ["maypole", "m:app"].iter().chain(words);
            Config::parse_with(words, &|_| None).unwrap().check()
        };
        for words in [
            &["--status-bind", "9100"][..],
            &["--status-bind", "localhost:9100", "--status-bind", "[::1]:9100"],
            &["--status-bind", "unix:/run/status"],
            &["--status-bind", "0.0.0.0:9100", "--status-allow", "10.0.0.0/8,127.0.0.1"],
            &["--status-bind", "0.0.0.0:9100", "--status-allow", "*"],
        ] {
            assert_eq!(check(words), Ok(()), "{words:?}");
        }
        let refused = check(&["--status-bind", "0.0.0.0:9100"]).unwrap_err();
        assert!(refused.starts_with("--status-bind 0.0.0.0:9100 can be reached from other machines"), "{refused}");
    }
}
