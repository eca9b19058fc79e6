//! The settings of requests in the logs, besides the files themselves.
//!
//! *Owns*: `LogSettings`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*: as
//! for `Config`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::syslog::SyslogSettings;
use super::{LOGS, duration_text, parse_duration};

/// The settings of requests in the logs.
#[derive(Debug, Clone, Args)]
pub struct LogSettings {
    /// Write a line only for requests that take longer than this, and for status 500 and above. Default: for all
    ///
    /// The time is that of the atom `%(D)s`: from the first byte of the request to the last byte of the response. With
    /// `--access-log-sample` a share of the other requests has a line, too.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = LOGS)]
    pub access_log_slower_than: Option<Duration>,

    /// Write a line only for this share of the requests, such as 0.01, and for status 500 and above. Default: all
    ///
    /// Each process counts its requests: with 0.01 the first one has a line, and then each hundredth. Beside
    /// `--access-log-slower-than`, slow requests always have a line, and this is the share of the fast ones.
    #[arg(long, value_name = "SHARE", value_parser = Share::parse, help_heading = LOGS)]
    pub access_log_sample: Option<Share>,

    /// Give each request an id in this field: a proxy's, or a new one. Default: none. Example: X-Request-ID
    ///
    /// A proxy of `--forwarded-allow-ips` may send the id: 1 to 128 visible characters of ASCII. Every other request gets
    /// a new id, a UUID of version 7, also if the client sent one. The application finds the id in
    /// `environ["maypole.request_id"]` and in the variable of the field, such as `HTTP_X_REQUEST_ID`. The response has the
    /// field, unless the application sets it. Tracebacks, reports and the [access log](logs.md#request-ids) show it.
    #[arg(long, value_name = "NAME", value_parser = field_name, help_heading = LOGS)]
    pub request_id_header: Option<String>,

    /// Log through Python's `logging`, which this file configures. Default: none
    ///
    /// The file has the form of `logging.config.fileConfig`, or JSON for `logging.config.dictConfig`, or is a Python file
    /// whose `logconfig_dict` is such a dictionary. Error lines go to the logger `gunicorn.error` or `maypole.error`, and
    /// access lines to `gunicorn.access` or `maypole.access`: `--access-logfile` has no effect. Lines of the supervisor,
    /// and those before the application is imported, go to `--error-logfile`. [Logs](logs.md#pythons-logging) says more.
    #[arg(long, value_name = "FILE", visible_alias = "log-config-json", help_heading = LOGS)]
    pub log_config: Option<PathBuf>,

    /// Lines for syslog.
    #[command(flatten)]
    pub syslog: SyslogSettings,
}

/// The fields that mean something else to HTTP or to the server.
const OTHER_FIELDS: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "cookie",
    "authorization",
    "date",
    "server",
    "proxy",
    "traceparent",
    "x-request-start",
];

/// Reads the name of a field that may have an id.
fn field_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_name {
        return Err("expected the name of a header field, such as X-Request-ID: letters, digits and hyphens".to_owned());
    }
    if OTHER_FIELDS.iter().any(|other| name.eq_ignore_ascii_case(other)) {
        return Err("expected a header field without another meaning, such as X-Request-ID".to_owned());
    }
    Ok(name.to_owned())
}

/// A share between 0 and 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// All.
    pub const ALL: Self = Self(1_000_000);
    /// None.
    pub const NONE: Self = Self(0);

    /// Reads a number from 0 to 1 with at most six decimals, or a percentage such as `1%`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, scale) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), 10_000.0),
            None => (text, 1_000_000.0),
        };
        let is_plain = |number: &&str| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let millionths = Some(number).filter(is_plain).and_then(|number| number.parse::<f64>().ok());
        match millionths.map(|number| number * scale) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 1,000,000")]
            Some(millionths @ 0.0..=1_000_000.0) if millionths == 0.0 || millionths >= 1.0 => {
                Ok(Self(millionths.round() as u32))
            }
            _ => Err("expected a share from 0.000001 to 1, such as 0.01 or 1%, or 0".to_owned()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, millionths) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let text = format!("{whole}.{millionths:06}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl LogSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let option = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let mut settings = vec![
            ("access_log_slower_than", option(self.access_log_slower_than.map(duration_text))),
            ("access_log_sample", option(self.access_log_sample.map(|share| share.to_string()))),
            ("request_id_header", option(self.request_id_header.clone())),
            ("log_config", option(self.log_config.as_ref().map(|file| file.display().to_string()))),
        ];
        settings.extend(self.syslog.settings());
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_read_and_printed() {
        for (text, millionths, printed) in [
            ("1", 1_000_000, "1"),
            ("0", 0, "0"),
            ("0.01", 10_000, "0.01"),
            (".5", 500_000, "0.5"),
            ("1%", 10_000, "0.01"),
            ("12.5 %", 125_000, "0.125"),
            ("0.000001", 1, "0.000001"),
        ] {
            let share = Share::parse(text).unwrap();
            assert_eq!((share.0, share.to_string().as_str()), (millionths, printed), "{text}");
            assert_eq!(Share::parse(printed), Ok(share));
        }
        for text in ["", "%", "-0.1", "1.1", "101%", "nan", "inf", "1e-3", "0.0000001", "all"] {
            assert!(Share::parse(text).is_err(), "{text}");
        }
    }
}
