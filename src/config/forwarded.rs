//! The settings of a server behind proxies.
//!
//! *Owns*: `ForwardedSettings`, a part of `Config`. *Runs on*: the main thread, while the settings are read.
//! *Invariants*: as for `Config`. No field of a request changes anything unless a network of these settings has the
//! address that the request comes from.

use clap::Args;
use clap::parser::ValueSource;

use super::origin::Origin;
use super::{Config, Network, PROXIES};

/// The variable that gunicorn and uvicorn read.
const ALLOW_VARIABLE: &str = "FORWARDED_ALLOW_IPS";
/// The most proxies that a request may pass.
const PROXIES_MAX: u64 = 100;

/// The fields in which proxies name the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedFamily {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and `-Prefix`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// None of them: they are fields like others.
    None,
}

impl ForwardedFamily {
    /// Reads `x-forwarded`, `forwarded` or `none`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "x-forwarded" => Ok(Self::XForwarded),
            "forwarded" => Ok(Self::Forwarded),
            "none" => Ok(Self::None),
            _ => Err("expected x-forwarded, forwarded or none".to_owned()),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::XForwarded => "x-forwarded",
            Self::Forwarded => "forwarded",
            Self::None => "none",
        }
    }
}

/// The settings of a server behind proxies.
#[derive(Debug, Clone, Args)]
pub struct ForwardedSettings {
    /// Take the client and its URL from the proxies of these networks, or `*`: what X-Forwarded-For and others say
    ///
    /// The proxies of a unix socket are always trusted. `*` trusts every client that connects. A trusted proxy has to set
    /// or remove each of these fields, because a client can send them as well: [what the proxy has to
    /// do](../proxies.md#what-the-proxy-has-to-do). Without the option and without its variable, the variable
    /// `FORWARDED_ALLOW_IPS` counts.
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = Network::parse)]
    #[arg(default_value = "127.0.0.1,::1", help_heading = PROXIES)]
    pub forwarded_allow_ips: Vec<Network>,

    /// Read what these fields of proxies say: `x-forwarded`, `forwarded`, or `none`
    ///
    /// `x-forwarded` reads X-Forwarded-For, -Proto, -Host, -Port and -Prefix. `forwarded` reads Forwarded (RFC 7239).
    /// With `none` they change nothing and reach the application as they came. See [proxies](../proxies.md).
    #[arg(long, value_name = "FIELDS", value_parser = ForwardedFamily::parse, default_value = "x-forwarded")]
    #[arg(help_heading = PROXIES)]
    pub forwarded_headers: ForwardedFamily,

    /// Expect this many proxies before the client, instead of knowing their addresses
    ///
    /// The client is the one that the first of them names. The proxy that connects still has to be one of
    /// `--forwarded-allow-ips`. With 0 the addresses decide: every address in `--forwarded-allow-ips` is a proxy.
    #[arg(long, value_name = "N", value_parser = super::number::<usize>(0..=PROXIES_MAX), default_value_t = 0)]
    #[arg(help_heading = PROXIES)]
    pub trusted_proxy_count: usize,

    /// Leave out the fields of proxies that are not trusted: `on`, `off`. The application does not see them then
    ///
    /// They are Forwarded, X-Real-IP, and all whose names begin with X-Forwarded-.
    #[arg(long, value_name = "WHICH", value_parser = switch, default_value = "on", action = clap::ArgAction::Set)]
    #[arg(help_heading = PROXIES)]
    pub strip_untrusted_forwarded: bool,
}

/// Reads `on` or `off`.
fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

impl ForwardedSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let networks = self.forwarded_allow_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        vec![
            ("forwarded_allow_ips", networks),
            ("forwarded_headers", self.forwarded_headers.as_str().to_owned()),
            ("trusted_proxy_count", self.trusted_proxy_count.to_string()),
            ("strip_untrusted_forwarded", if self.strip_untrusted_forwarded { "on" } else { "off" }.to_owned()),
        ]
    }
}

impl Config {
    /// Sets the trusted proxies from the variable that other servers read.
    pub(super) fn resolve_proxies(
        &mut self,
        source: Option<ValueSource>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        let Some(value) = variable(ALLOW_VARIABLE).filter(|_| source == Some(ValueSource::DefaultValue)) else {
            return Ok(());
        };
        let networks = value.split(',').filter(|part| !part.trim().is_empty()).map(Network::parse);
        let networks = networks.collect::<Result<Vec<_>, _>>();
        self.forwarded.forwarded_allow_ips =
            networks.map_err(|expected| format!("invalid value '{value}' for {ALLOW_VARIABLE}: {expected}"))?;
        self.origins.set("forwarded_allow_ips", Origin::Variable(ALLOW_VARIABLE.to_owned()));
        Ok(())
    }
}
