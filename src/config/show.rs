//! Settings as text, for `--print-config` and `Server.settings`.
//!
//! *Owns*: nothing; reads `Config`. *Runs on*: the main thread. *Invariants*: every printed value except `none` is a
//! value that the setting's parser accepts.

use std::path::Path;

use log::LevelFilter;

use super::units::duration_text;
use super::{Assignment, Config, Processes};

impl Config {
    /// Returns every setting with its value, in the order of `--help`. Settings that are commands (`--check-config`) or
    /// parts of another setting (`--host`) are left out.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        let path = |path: &Path| path.display().to_string();
        let option = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        [
            ("application", option(self.application.clone())),
            ("factory", self.factory.to_string()),
            ("paste", option(self.paste.clone())),
            ("chdir", option(self.chdir.as_deref().map(path))),
            ("pythonpath", list(&mut self.pythonpath.iter().map(|dir| path(dir)))),
            ("werkzeug_socket", self.werkzeug_socket.to_string()),
            ("bind", list(&mut self.bind.iter().map(ToString::to_string))),
            ("unix_socket_mode", option(self.unix_socket_mode.map(|bits| format!("{bits:03o}")))),
            ("unix_socket_owner", option(self.unix_socket_owner.as_ref().map(ToString::to_string))),
            ("backlog", self.backlog.to_string()),
        ]
        .into_iter()
        .chain(self.tls.settings())
        .chain(self.http2.settings())
        .chain([
            ("proxy_protocol", self.proxy_protocol.to_string()),
            ("proxy_allow_from", list(&mut self.proxy_allow_from.iter().map(ToString::to_string))),
        ])
        .chain(self.forwarded.settings())
        .chain(self.files.settings())
        .chain(self.sites.settings())
        .chain([
            ("pool_size", self.pool_size.to_string()),
            ("threads", self.threads_max().to_string()),
            ("max_connections", option(self.max_connections.map(|n| n.to_string()))),
            ("limit_request_line", self.limit_request_line.to_string()),
            ("limit_request_fields", self.limit_request_fields.to_string()),
            ("limit_request_field_size", self.limit_request_field_size.to_string()),
            ("limit_request_head", self.limit_request_head.to_string()),
            ("max_body_size", self.max_body_size.to_string()),
            ("request_buffer", self.request_buffer.to_string()),
            ("stream_requests", self.stream_requests.to_string()),
            ("response_buffer", self.response_buffer.to_string()),
            ("response_spool", self.response_spool.to_string()),
            ("spool_dir", path(&self.spool_dir)),
            ("spool_total", option(self.spool_total.map(|size| size.to_string()))),
            ("keep_alive", duration_text(self.keep_alive)),
            ("header_timeout", duration_text(self.header_timeout)),
            ("body_timeout", duration_text(self.body_timeout)),
            ("write_timeout", duration_text(self.write_timeout)),
            ("queue_timeout", duration_text(self.queue_timeout)),
            ("request_timeout", duration_text(self.request_timeout)),
            ("request_interrupt", self.request_interrupt.to_string()),
            ("graceful_timeout", duration_text(self.graceful_timeout)),
        ])
        .chain(self.suspending.settings())
        .chain([
            ("min_rate", self.min_rate.to_string()),
            ("access_logfile", self.access_logfile.to_string()),
            ("access_logformat", self.access_logformat.clone()),
            ("error_logfile", self.error_logfile.to_string()),
            ("log_level", level_name(self.log_level).to_owned()),
        ])
        .chain(self.logs.settings())
        .chain(self.status.settings())
        .chain(self.processes.settings())
        .chain([
            ("umask", option(self.umask.map(|bits| format!("{bits:03o}")))),
            ("init", if self.init { "auto" } else { "off" }.to_owned()),
            ("max_http_version", self.max_http_version.to_string()),
            ("server_header", self.server_header.clone()),
            ("stack_size", self.stack_size.to_string()),
        ])
        .collect()
    }
}

impl Processes {
    /// Returns the settings of processes with their values.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let path = |path: Option<&Path>| path.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
        let option = |value: Option<&dyn ToString>| value.map_or_else(|| "none".to_owned(), ToString::to_string);
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let list = |items: &[Assignment]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let paths: Vec<_> = self.reload_extra_file.iter().map(|path| path.display().to_string()).collect();
        vec![
            ("capture_output", self.capture_output.to_string()),
            ("workers", option(self.workers.as_ref().map(|workers| workers as _))),
            ("preload", self.preload.to_string()),
            ("worker_timeout", duration_text(self.worker_timeout)),
            ("worker_start_timeout", duration_text(self.worker_start_timeout)),
            ("max_requests", self.max_requests.to_string()),
            ("max_requests_jitter", self.max_requests_jitter.to_string()),
            ("max_worker_memory", option(self.max_worker_memory.as_ref().map(|size| size as _))),
            ("worker_lifetime", duration_text(self.worker_lifetime)),
            ("hooks", path(self.hooks.as_deref())),
            ("reload", self.reload.to_string()),
            ("reload_extra_file", paths.join(",")),
            ("reload_engine", self.reload_engine.to_string()),
            ("uwsgi_module", self.uwsgi_module.to_string()),
            ("uwsgi_opt", list(&self.uwsgi_opt)),
            ("config", text(&self.config)),
            ("user", text(&self.user)),
            ("group", text(&self.group)),
            ("pid", path(self.pid.as_deref())),
            ("proc_name", text(&self.proc_name)),
            ("raw_env", list(&self.raw_env)),
            ("worker_tmp_dir", path(self.worker_tmp_dir.as_deref())),
        ]
    }
}

/// Returns the name of a level.
pub fn level_name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::Off | LevelFilter::Error => "error",
        LevelFilter::Warn => "warning",
        LevelFilter::Info => "info",
        LevelFilter::Debug | LevelFilter::Trace => "debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_every_argument_once() {
        let config = Config::parse_from(["maypole", "m:app"]).unwrap();
        let printed: Vec<_> = config.settings().iter().map(|(name, _)| *name).collect();
        let command = Config::command();
        let known: Vec<_> = command
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .filter(|name| !["check_config", "print_config", "version", "host", "port"].contains(name))
            .collect();
        assert_eq!(printed, known);
    }

    #[test]
    fn settings_printed_read_back() {
        let args = ["maypole", "m:app", "-b", "[::1]:80", "-b", "unix:/x", "-m", "27", "--stream-requests", "1M"];
        let config = Config::parse_from(args).unwrap();
        let mut again = vec!["maypole".to_owned(), config.application.clone().unwrap()];
        for (name, value) in config.settings() {
            if name != "application" && value != "none" && value != "false" && !value.is_empty() {
                again.push(format!("--{}={value}", name.replace('_', "-")));
            }
        }
        assert_eq!(Config::parse_from(again).unwrap().settings(), config.settings());
    }
}
