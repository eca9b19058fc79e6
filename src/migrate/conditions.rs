//! The conditions in a configuration of uWSGI: `if-env = PRODUCTION` … `endif`.
//!
//! *Owns*: nothing; settings in, settings out. *Invariants*: uWSGI decides its conditions when it starts, so those on the
//! environment are decided with the environment of this process, and a remark says so. Other conditions count as true.
//! *Source*: uWSGI's documentation, "Configuration logic".

use super::uwsgi::Pair;

/// A remark: the line, the option, and the sentence.
pub(super) type Remark = (usize, String, String);

/// Leaves out the settings below conditions that do not hold. `variable` returns the value of an environment variable.
pub(super) fn decided(pairs: Vec<Pair>, variable: &dyn Fn(&str) -> Option<String>) -> (Vec<Pair>, Vec<Remark>) {
    // Whether each condition holds whose `endif` has not come yet.
    let (mut kept, mut remarks, mut open) = (Vec::new(), Vec::new(), Vec::<bool>::new());
    for (key, value, line) in pairs {
        let name = key.replace('_', "-");
        let is_reached = !open.contains(&false);
        match name.as_str() {
            "endif" | "end-if" => drop(open.pop()),
            "if-env" | "ifenv" | "if-not-env" => {
                let (holds, sentence) = decide(&value, name != "if-not-env", variable);
                open.push(holds);
                if is_reached {
                    remarks.push((line, key, sentence));
                }
            }
            _ => {
                if name.starts_with("if") {
                    open.push(true);
                }
                if is_reached {
                    kept.push((key, value, line));
                }
            }
        }
    }
    (kept, remarks)
}

/// Decides a condition on `NAME` or `NAME=VALUE`. Returns a sentence about it as well.
fn decide(condition: &str, wanted: bool, variable: &dyn Fn(&str) -> Option<String>) -> (bool, String) {
    let (name, expected) = condition.split_once('=').map_or((condition, None), |(name, value)| (name, Some(value)));
    let value = variable(name);
    let is_met = match expected {
        None => value.is_some(),
        Some(expected) => value.as_deref() == Some(expected),
    };
    let state = match (&value, expected, is_met) {
        (None, ..) => "not set".to_owned(),
        (Some(_), None, _) => "set".to_owned(),
        (Some(_), Some(expected), true) => expected.to_owned(),
        (Some(_), Some(expected), false) => format!("not {expected}"),
    };
    let holds = is_met == wanted;
    let taken = if holds { "taken over" } else { "left out" };
    (holds, format!("the variable {name} is {state} here, so that the lines up to endif are {taken}"))
}
