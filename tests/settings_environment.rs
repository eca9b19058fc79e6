//! Settings from `MAYPOLE_…` variables. Each case runs this test program again, so that no test sees another test's
//! variables.

use std::process::Command;

use maypole::config::Config;

/// Runs `settings_of_the_child` with these variables and words, and returns its output.
fn child(variables: &[(&str, &str)], words: &str) -> String {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(["--exact", "settings_of_the_child", "--ignored", "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MAYPOLE_") || name == "PORT" {
            command.env_remove(name);
        }
    }
    command.env("SETTINGS_WORDS", words).envs(variables.iter().copied());
    String::from_utf8(command.output().expect("the child runs").stdout).expect("the child prints UTF-8")
}

#[test]
#[ignore = "the other side of child()"]
fn settings_of_the_child() {
    let words = std::env::var("SETTINGS_WORDS").unwrap_or_default();
    match Config::parse_from(["maypole", "m:app"].into_iter().chain(words.split_whitespace())) {
        Ok(config) => config.settings().iter().for_each(|(name, value)| println!("{name} = {value}")),
        Err(error) => println!("{error}"),
    }
}

#[track_caller]
fn assert_line(output: &str, line: &str) {
    assert!(output.lines().any(|known| known == line), "no line {line:?} in:\n{output}");
}

#[test]
fn variable_alone_sets_the_option() {
    let variables = [
        ("MAYPOLE_BIND", "127.0.0.1:1,unix:/run/x"),
        ("MAYPOLE_KEEP_ALIVE", "2m"),
        ("MAYPOLE_FACTORY", "yes"),
        ("MAYPOLE_PYTHONPATH", "a,b"),
        ("MAYPOLE_SERVER_HEADER", ""),
        ("MAYPOLE_THREADS", ""),
        ("PORT", "5000"),
    ];
    let output = child(&variables, "");
    for line in [
        "bind = 127.0.0.1:1,unix:/run/x",
        "keep_alive = 2m",
        "factory = true",
        "pythonpath = a,b",
        "server_header = ",
        "threads = 256",
    ] {
        assert_line(&output, line);
    }
}

#[test]
fn variable_with_option_gives_way() {
    let output = child(&[("MAYPOLE_BIND", "a:1"), ("MAYPOLE_THREADS", "7")], "--bind b:2 --threads 8");
    assert_line(&output, "bind = b:2");
    assert_line(&output, "threads = 8");
}

#[test]
fn variable_of_each_switch_turns_it_on_and_gives_way_to_the_command_line() {
    let command = Config::command();
    let is_switch = |arg: &&clap::Arg| arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    let names: Vec<_> = command.get_arguments().filter(is_switch).map(|arg| arg.get_id().to_string()).collect();
    let printed: Vec<_> = names.iter().filter(|name| !["check_config", "print_config"].contains(&&***name)).collect();
    assert!(printed.len() >= 5, "{names:?}");
    let variables: Vec<_> = names.iter().map(|name| format!("MAYPOLE_{}", name.to_uppercase())).collect();
    let all = |value: &'static str| variables.iter().map(|name| (name.as_str(), value)).collect::<Vec<_>>();
    let off: Vec<_> = names.iter().map(|name| format!("--no-{}", name.replace('_', "-"))).collect();
    let (on_by_variable, off_by_variable) = (child(&all("1"), ""), child(&all("0"), ""));
    let off_by_line = child(&all("true"), &off.join(" "));
    for name in printed {
        assert_line(&on_by_variable, &format!("{name} = true"));
        assert_line(&off_by_variable, &format!("{name} = false"));
        assert_line(&off_by_line, &format!("{name} = false"));
    }
    let error = "error: invalid value '2' for '--preload': expected true or false";
    assert_line(&child(&[("MAYPOLE_PRELOAD", "2")], ""), error);
}

#[test]
fn variable_that_is_wrong_says_what_would_be_right() {
    let output = child(&[("MAYPOLE_KEEP_ALIVE", "12x")], "");
    let error = "error: invalid value '12x' for '--keep-alive': \
                 expected a duration such as 75, 1.5s, 500ms or 2m";
    assert_line(&output, error);
    assert_line(&output, "  tip: the value comes from the variable MAYPOLE_KEEP_ALIVE");
    let output = child(&[("MAYPOLE_BIND", "a:1,a:x")], "");
    assert_line(&output, "  tip: the value comes from the variable MAYPOLE_BIND");
    let output = child(&[("MAYPOLE_KEEP_ALIVE", "1s")], "--keep-alive 12x");
    assert!(!output.contains("the variable"), "{output}");
}

#[test]
fn port_variable_without_bind_opens_every_address() {
    assert_line(&child(&[("PORT", "5000")], ""), "bind = 0.0.0.0:5000");
}
