//! The logging of the process, set up as the server does it. There is one test, because logging is set up once per
//! process.

use std::fs;

use maypole::config::Config;

#[test]
fn logging_set_up_writes_to_its_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let (errors, access) = (dir.path().join("errors"), dir.path().join("access"));
    let config = Config::parse_from([
        "maypole".into(),
        "m:app".into(),
        format!("--error-logfile={}", errors.display()),
        format!("--access-logfile={}", access.display()),
        "--log-level=warning".into(),
    ])
    .expect("good settings");
    let logs = maypole::logs::init(&config).expect("logs open");
    assert!(logs.access.is_some());
    assert_eq!(log::max_level(), log::LevelFilter::Warn);

    log::info!("not seen");
    log::warn!("first line\nsecond line");
    log::warn!(target: "may::io", "of the runtime");
    assert!(maypole::logs::flush());
    let text = fs::read_to_string(&errors).expect("the error log");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("] [WARNING] first line\nsecond line\n["), "{text}");
    assert!(text.ends_with("] [WARNING] of the runtime\n"), "{text}");

    let other = Config::parse_from(["maypole", "m:app", "--error-logfile=none", "--access-logfile=none"]);
    maypole::logs::init(&other.expect("good settings")).expect("nothing to open");
    log::warn!("where it went before");
    assert!(maypole::logs::flush());
    let text = fs::read_to_string(&errors).expect("the error log");
    assert!(text.ends_with("] [WARNING] where it went before\n"), "{text}");
}
