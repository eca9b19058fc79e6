//! Warns of environment variables that look like settings but are not.
//!
//! *Owns*: nothing. *Runs on*: the main thread, or the thread that makes a server. *Source*: kubernetes.io,
//! "Discovering services": the variables that Kubernetes sets for a service whose name begins with `maypole`.

use super::read::variable_of;
use super::{Config, VARIABLE_PREFIX, foreign, nearest};

/// Maypole's variables that are not settings: for the build, for the tests, and for the application of a worker.
const NOT_SETTINGS: [&str; 3] = ["MAYPOLE_PYTHON", "MAYPOLE_BLESS", "MAYPOLE_WORKER"];

/// Returns a sentence for each variable that begins with `MAYPOLE_` and is not a setting. Variables of a Kubernetes
/// service are left out.
pub fn unknown_variables(variables: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let known: Vec<_> = Config::command().get_arguments().filter_map(variable_of).collect();
    let mut unknown: Vec<_> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .filter(|(name, _)| !known.contains(name) && !NOT_SETTINGS.contains(&name.as_str()))
        .filter(|(name, value)| !is_of_kubernetes(name, value))
        .map(|(name, _)| name)
        .collect();
    unknown.sort();
    unknown.iter().map(|name| sentence(name, &known)).collect()
}

fn sentence(name: &str, known: &[String]) -> String {
    let lead = format!("the variable {name} is ignored: there is no such setting");
    if ["MAYPOLE_HOST", "MAYPOLE_PORT"].contains(&name) {
        return format!("{lead}; set MAYPOLE_BIND=HOST:PORT");
    }
    let own = |name: &str| name.trim_start_matches(VARIABLE_PREFIX).to_ascii_lowercase();
    if let Some(sentence) = foreign::explain_setting(&lead, &own(name), &[]) {
        return sentence;
    }
    let names: Vec<_> = known.iter().map(|name| own(name)).collect();
    let near = nearest(&own(name), names.iter().map(String::as_str));
    let hint = near.map(|near| format!("; did you mean {VARIABLE_PREFIX}{}?", near.to_ascii_uppercase()));
    lead + &hint.unwrap_or_default()
}

/// Returns whether Kubernetes set the variable for a service: `MAYPOLE_SERVICE_HOST=10.0.0.1`,
/// `MAYPOLE_PORT=tcp://10.0.0.1:80`, `MAYPOLE_PORT_80_TCP_ADDR=10.0.0.1`, and the same for a service with a longer
/// name, such as `maypole-web`.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || (name.ends_with("_PORT") && is_url) {
        return true;
    }
    let Some((_, port)) = name.split_once("_PORT_") else { return false };
    let mut parts = port.split('_');
    parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
        && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
        && matches!(parts.next(), None | Some("ADDR" | "PORT" | "PROTO"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(variables: &[(&str, &str)]) -> Vec<String> {
        unknown_variables(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn variable_that_is_no_setting_is_named_with_the_nearest() {
        assert_eq!(
            unknown(&[("MAYPOLE_POOLSIZE", "5"), ("MAYPOLE_XYZZY", "1"), ("MAYPOLE_POOL_SIZE", "5"), ("HOME", "/")]),
            [
                "the variable MAYPOLE_POOLSIZE is ignored: there is no such setting; did you mean MAYPOLE_POOL_SIZE?",
                "the variable MAYPOLE_XYZZY is ignored: there is no such setting",
            ]
        );
    }

    #[test]
    fn variable_with_the_name_of_a_foreign_setting_says_what_to_use() {
        let [sentence] = &unknown(&[("MAYPOLE_TIMEOUT", "30")])[..] else { panic!("it is one sentence") };
        let begin =
            "the variable MAYPOLE_TIMEOUT is ignored: there is no such setting (gunicorn); use --request-timeout: it ";
        assert!(sentence.starts_with(begin), "{sentence}");
    }

    #[test]
    fn variable_for_a_part_of_the_address_is_told_the_whole() {
        let port = "the variable MAYPOLE_PORT is ignored: there is no such setting; set MAYPOLE_BIND=HOST:PORT";
        assert_eq!(unknown(&[("MAYPOLE_PORT", "8000")]), [port]);
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_left_alone() {
        let service = [
            ("MAYPOLE_SERVICE_HOST", "10.0.0.1"),
            ("MAYPOLE_SERVICE_PORT", "80"),
            ("MAYPOLE_SERVICE_PORT_HTTP", "80"),
            ("MAYPOLE_PORT", "tcp://10.0.0.1:80"),
            ("MAYPOLE_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("MAYPOLE_PORT_80_TCP_PROTO", "tcp"),
            ("MAYPOLE_WEB_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("MAYPOLE_WEB_SERVICE_HOST", "10.0.0.1"),
        ];
        assert_eq!(unknown(&service), [""; 0]);
    }
}
