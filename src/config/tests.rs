//! Tests of the settings: defaults, the error message for each invalid value, the environment, the rules between
//! settings.

use clap::error::ErrorKind;

use super::*;

/// Parses `maypole m:app` and the given words. The variable PORT is unset.
fn parse(words: &[&str]) -> Result<Config, String> {
    parse_in(words, &[])
}

fn parse_in(words: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let variable =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let args = ["maypole", "m:app"].iter().chain(words).copied();
    Config::parse_with(args, &variable).map_err(|error| error.to_string())
}

fn bound(config: &Config) -> Vec<String> {
    config.bind.iter().map(ToString::to_string).collect()
}

#[test]
fn command_holds_together() {
    Config::command().debug_assert();
}

#[test]
fn config_without_options_has_the_defaults() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.application.as_deref(), Some("m:app"));
    assert_eq!(bound(&config), ["127.0.0.1:8000"]);
    assert_eq!((config.backlog, config.pool_size, config.threads_max()), (2048, 1000, 256));
    assert_eq!(config.max_connections, None);
    assert_eq!(config.max_http_version, HttpVersion::Http11);
    assert_eq!(config.proxy_protocol, ProxyProtocol::Off);
    assert_eq!(config.proxy_allow_from.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
    assert_eq!((config.keep_alive, config.header_timeout), (Duration::from_secs(75), Duration::from_secs(10)));
    assert_eq!((config.body_timeout, config.write_timeout), (Duration::from_secs(30), Duration::from_secs(60)));
    assert_eq!((config.queue_timeout, config.graceful_timeout), (Duration::from_secs(30), Duration::from_secs(30)));
    assert_eq!(config.min_rate, 240);
    assert_eq!(
        (config.limit_request_line, config.limit_request_fields, config.limit_request_field_size),
        (8190, 100, 8190)
    );
    assert_eq!(config.limit_request_head, ByteSize(65_536));
    assert_eq!((config.max_body_size, config.request_buffer), (ByteSize(1 << 30), ByteSize(4 << 20)));
    assert_eq!((config.response_buffer, config.response_spool), (ByteSize(65_536), ByteSize(64 << 20)));
    assert_eq!(config.stream_requests, StreamRequests::Never);
    assert_eq!((config.spool_dir, config.spool_dir_given), (std::env::temp_dir(), false));
    assert_eq!(config.spool_total, None);
    assert_eq!((config.access_logfile, config.error_logfile), (LogTarget::None, LogTarget::Standard));
    assert_eq!(config.log_level, LevelFilter::Info);
    assert_eq!((config.server_header.as_str(), config.stack_size), ("maypole", ByteSize(131_072)));
    assert!(!config.factory && !config.check_config && !config.print_config);
}

#[test]
fn config_with_options_has_their_values() {
    let config = parse(&[
        "--factory",
        "-b",
        "[::1]:80,unix:/run/x",
        "--bind=fd://3",
        "--pythonpath",
        "a,b",
        "--umask",
        "027",
        "--keep-alive",
        "0",
        "--limit-request-field_size",
        "4k",
        "--stream-requests",
        "above 1M",
        "--log-file",
        "/tmp/errors",
        "--access-logfile",
        "-",
        "--log-level",
        "CRITICAL",
        "--server-header",
        "",
        "--threads",
        "3",
        "--threads",
        "4",
        "--max-http-version",
        "HTTP/1.0",
        "--proxy-protocol",
        "V2",
        "--proxy-allow-from",
        "10.1.2.3/8,*",
    ])
    .unwrap();
    assert_eq!(config.proxy_protocol, ProxyProtocol::V2);
    assert_eq!(config.max_http_version, HttpVersion::Http10);
    assert_eq!(config.proxy_allow_from.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "*"]);
    assert!(config.factory);
    assert_eq!(bound(&config), ["[::1]:80", "unix:/run/x", "fd://3"]);
    assert_eq!(config.pythonpath, [PathBuf::from("a"), PathBuf::from("b")]);
    assert_eq!(config.umask, Some(0o027));
    assert_eq!(config.keep_alive, Duration::ZERO);
    assert_eq!(config.limit_request_field_size, 4096);
    assert_eq!(config.stream_requests, StreamRequests::Above(1 << 20));
    assert_eq!(config.error_logfile, LogTarget::File("/tmp/errors".into()));
    assert_eq!(config.access_logfile, LogTarget::Standard);
    assert_eq!(config.log_level, LevelFilter::Error);
    assert_eq!(config.server_header, "");
    assert_eq!(config.threads, Some(4));
}

#[test]
fn threads_given_with_the_value_of_the_default_are_given() {
    let of = |words: &[&str]| {
        let words = ["maypole", "m:app"].iter().chain(words);
        let config = Config::parse_with(words, &|_| None).unwrap();
        (config.threads, config.threads_max(), config.origins.of("threads").to_string())
    };
    assert_eq!(of(&[]), (None, 256, "default".to_owned()));
    assert_eq!(of(&["--threads", "256"]), (Some(256), 256, "command line".to_owned()));
    assert_eq!(of(&["--threads", "4"]), (Some(4), 4, "command line".to_owned()));
}

#[test]
fn value_that_is_wrong_says_what_would_be_right() {
    for (words, expected) in [
        (["--keep-alive", "12x"], "expected a duration such as 75, 1.5s, 500ms or 2m"),
        (["--header-timeout", "0"], "expected a duration of at least 1ms, such as 30, 1.5s, 500ms or 2m"),
        (["--graceful-timeout", "30d"], "expected a duration of at most 24d"),
        (["--bind", "http://localhost/a"], "expected http://host:port without a path"),
        (["--backlog", "0"], "expected a whole number from 1 to 65535"),
        (["--pool-size", "0"], "expected a whole number from 1 to 100000"),
        (["--threads", "many"], "expected a whole number from 1 to 10000"),
        (["--max-connections", "0"], "expected a whole number from 1 to 10000000"),
        (["--min-rate", "2G"], "expected a size from 0 to 1GiB"),
        (["--limit-request-line", "2M"], "expected a size from 16 to 1MiB"),
        (["--limit-request-head", "15"], "expected a size from 16 to 1MiB"),
        (["--limit-request-fields", "0"], "expected a whole number from 1 to 16384"),
        (["--limit-request-field-size", "x"], "expected a size such as 8190, 64k, 64KiB, 1.5M or 1GiB"),
        (["--max-body-size", "0"], "expected a size of at least 1"),
        (["--response-buffer", "1"], "expected a size from 4KiB to 1GiB"),
        (["--stack-size", "4k"], "expected a size from 32KiB to 8MiB"),
        (["--stream-requests", "sometimes"], "expected never, always or a size such as 16MiB"),
        (["--max-http-version", "2"], "expected 1.0 or 1.1"),
        (["--proxy-protocol", "v3"], "expected off, v1, v2 or auto"),
        (
            ["--proxy-allow-from", "::1,localhost"],
            "expected an IP address, a network such as 10.0.0.0/8 or fd00::/8, or *",
        ),
        (["--umask", "8"], "expected an octal number from 0 to 777, such as 027"),
        (["--umask", "1000"], "expected an octal number from 0 to 777, such as 027"),
        (["--access-logfile", ""], "expected none, - or a path"),
        (["--server-header", "a\r\nb"], "expected printable ASCII, or nothing for no Server field"),
        (["--log-level", "loud"], "[possible values: debug, info, warning, error, critical]"),
    ] {
        let error = parse(&words).unwrap_err();
        assert!(error.contains(expected), "{words:?}: {error}");
        assert!(error.contains(words[0]), "{words:?}: {error}");
    }
}

#[test]
fn value_that_is_wrong_is_named_with_its_option() {
    let error = parse(&["--keep-alive", "12x"]).unwrap_err();
    let first = error.lines().next().unwrap();
    let expected = "expected a duration such as 75, 1.5s, 500ms or 2m";
    assert_eq!(first, format!("error: invalid value '12x' for '--keep-alive': {expected}"));
}

#[test]
fn application_that_is_none_says_what_would_be_right() {
    for text in ["", ":app", "m:", " :app"] {
        let error = Config::parse_from(["maypole", text]).unwrap_err().to_string();
        assert!(error.contains("expected MODULE, MODULE:CALLABLE, MODULE:FACTORY() or PATH.py:CALLABLE"), "{error}");
    }
    assert_eq!(Config::parse_from(["maypole"]).unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
}

#[test]
fn paste_stands_for_the_application() {
    let config = Config::parse_from(["maypole", "--paste", "site.ini#admin"]).unwrap();
    assert_eq!((config.application.as_deref(), config.application_name()), (None, "site.ini#admin"));
    for (args, sentence) in [
        (["--paste", "site.ini", "m:app"], "--paste names an application, and so does MODULE"),
        (["--paste", "site.ini", "--factory"], "--factory is for MODULE"),
        (["--threads", "1", "--paste="], "expected FILE or FILE#NAME"),
    ] {
        let error = Config::parse_from(["maypole"].into_iter().chain(args)).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn option_that_is_unknown_gets_a_suggestion() {
    let error = parse(&["--keepalive", "3"]).unwrap_err();
    assert!(error.contains("--keep-alive"), "{error}");
}

#[test]
fn version_is_one_line() {
    for option in ["--version", "-v", "-V"] {
        let error = Config::parse_from(["maypole", option]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayVersion);
        assert_eq!(error.to_string(), format!("maypole {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn port_without_bind_opens_every_address() {
    assert_eq!(bound(&parse_in(&[], &[("PORT", "5000")]).unwrap()), ["0.0.0.0:5000"]);
}

#[test]
fn port_with_bind_is_ignored() {
    let config = parse_in(&["--bind", "localhost:1"], &[("PORT", "x")]).unwrap();
    assert_eq!(bound(&config), ["localhost:1"]);
}

#[test]
fn port_that_is_none_is_a_usage_error() {
    let error = parse_in(&[], &[("PORT", "x")]).unwrap_err();
    assert!(error.starts_with("error: invalid value 'x' for PORT: expected a port from 0 to 65535"), "{error}");
}

#[test]
fn request_buffer_by_default_follows_a_smaller_body() {
    let config = parse(&["--max-body-size", "10k"]).unwrap();
    assert_eq!(config.request_buffer, ByteSize(10 * KIB));
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn limits_by_default_follow_a_smaller_head() {
    let config = parse(&["--limit-request-head", "4k"]).unwrap();
    assert_eq!((config.limit_request_line, config.limit_request_field_size), (4096, 4096));
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn stack_size_is_rounded_up_to_pages() {
    assert_eq!(parse(&["--stack-size", "65537"]).unwrap().stack_size, ByteSize(69_632));
}

#[test]
fn check_of_the_defaults_finds_nothing() {
    assert_eq!(parse(&[]).unwrap().check(), Ok(()));
}

#[test]
fn check_of_a_broken_rule_says_which() {
    for (words, sentence) in [
        (
            &["--request-buffer", "2k", "--max-body-size", "1k"][..],
            "--request-buffer (2KiB) must not be larger than --max-body-size (1KiB)",
        ),
        (
            &["--limit-request-line", "65k"],
            "--limit-request-line (66560) must not be larger than --limit-request-head (64KiB)",
        ),
        (
            &["--limit-request-field-size", "8190", "--limit-request-head", "4k"],
            "--limit-request-field-size (8190) must not be larger than --limit-request-head (4KiB)",
        ),
        (&["-b", "a:1", "-b", "b:1", "-b", "a:1"], "--bind names a:1 twice"),
    ] {
        let error = parse(words).unwrap().check().unwrap_err();
        assert!(error.starts_with(sentence), "{words:?}: {error}");
    }
}

#[test]
fn check_of_a_path_that_is_wrong_says_which() {
    for (words, sentence) in [
        (&["--chdir", "/nowhere"][..], "--chdir must be a directory, and /nowhere does not exist"),
        (&["--chdir", "/etc/passwd"], "--chdir must be a directory, and /etc/passwd is not one"),
        (&["--access-logfile", "/"], "--access-logfile must be a file, and / is a directory"),
        (&["--chdir", "/", "--error-logfile", "tmp"], "--error-logfile must be a file, and tmp is a directory"),
    ] {
        let config = parse(words).unwrap();
        assert_eq!((config.check(), config.check_paths()), (Ok(()), Err(sentence.to_owned())), "{words:?}");
    }
}

#[test]
fn worker_timeout_is_no_shorter_than_the_heartbeat_allows() {
    for (value, timeout) in [("0", 0), ("2s", 2000), ("2500ms", 2500)] {
        let config = parse(&["--worker-timeout", value]).unwrap();
        assert_eq!(config.processes.worker_timeout, Duration::from_millis(timeout));
    }
    let error = parse(&["--worker-timeout", "1999ms"]).unwrap_err();
    assert!(error.contains("expected 0 or at least 2s: a worker shows once a second that it responds"), "{error}");
}

#[test]
fn file_of_settings_in_the_place_of_the_application_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    for (name, instead) in [
        ("shop.toml", Some("`maypole --config shop.toml` reads it")),
        (
            "uwsgi.ini",
            Some("`maypole migrate uwsgi.ini` makes a TOML file of settings of uWSGI, and `maypole --paste "),
        ),
        ("shop.wsgi", None),
    ] {
        let checked =
            || Config::parse_from(["maypole", name, "--chdir", dir.path().to_str().unwrap()]).unwrap().check_paths();
        assert_eq!(checked(), Ok(()), "a module may have the name {name}");
        std::fs::write(dir.path().join(name), "").unwrap();
        let refused = checked().err();
        assert_eq!(refused.is_some(), instead.is_some(), "{refused:?}");
        let lead = format!("{name} is a file of settings, and no application: {}", instead.unwrap_or_default());
        assert!(refused.is_none_or(|sentence| sentence.starts_with(&lead)));
    }
}

#[test]
fn parts_of_the_address_make_the_whole() {
    for (words, variables, address) in [
        (&["--port", "80"][..], &[][..], "127.0.0.1:80"),
        (&["--host", "0.0.0.0"], &[], "0.0.0.0:8000"),
        (&["--host", "::1", "--port=0"], &[], "[::1]:0"),
        (&["--host", "::"], &[("PORT", "5000")], "[::]:5000"),
        (&["--port", "80"], &[("PORT", "5000")], "127.0.0.1:80"),
    ] {
        let config = parse_in(words, variables).unwrap();
        assert_eq!((bound(&config), config.origins.of("bind")), (vec![address.to_owned()], Origin::CommandLine));
    }
    let error = parse(&["-b", "a:1", "--port", "80"]).unwrap_err();
    assert!(
        error.starts_with("error: --host and --port are the parts of --bind: give --bind HOST:PORT alone"),
        "{error}"
    );
}

#[test]
fn every_option_stands_in_a_group() {
    for arg in Config::command().get_arguments() {
        assert!(arg.get_help_heading().is_some_and(|group| GROUPS.contains(&group)), "{arg}");
    }
}

#[test]
fn check_of_free_ports_takes_several() {
    assert_eq!(parse(&["-b", "127.0.0.1:0,127.0.0.1:0"]).unwrap().check(), Ok(()));
}
