//! Tests of access lines: each atom, the named formats, hostile values from clients.

use std::time::UNIX_EPOCH;

use super::*;

type Fields = [(&'static [u8], &'static [u8])];

const DEFAULT: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

fn config(target: &str, format: &str) -> Config {
    let (target, format) = (format!("--access-logfile={target}"), format!("--access-logformat={format}"));
    Config::parse_from(["maypole", "m:app", &target, &format]).unwrap()
}

/// Opens a log in a file with `format`, writes the usual entry as altered by `change`, and returns the file's text.
fn written_with(format: &str, fields: &'static Fields, change: impl FnOnce(&mut Entry<'static>)) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let log = AccessLog::new(&config(file.path().to_str().unwrap(), format)).unwrap().unwrap();
    let find: &'static dyn Fn(&[u8]) -> Option<&'static [u8]> =
        Box::leak(Box::new(|name: &[u8]| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)));
    let mut entry = entry(find);
    change(&mut entry);
    log.write(&entry);
    assert!(writer::flush_process());
    std::fs::read_to_string(file.path()).unwrap()
}

fn written(format: &str, fields: &'static Fields) -> String {
    written_with(format, fields, |_| {})
}

fn entry(request_field: &'static dyn Fn(&[u8]) -> Option<&'static [u8]>) -> Entry<'static> {
    Entry {
        remote: Some(([192, 0, 2, 7], 4711).into()),
        request_line: b"GET /a?b=c HTTP/1.1",
        method: b"GET",
        path: b"/a",
        query: b"b=c",
        protocol: "HTTP/1.1",
        request_id: None,
        proxy_queue: None,
        status: 200,
        wire_bytes: 0,
        body_bytes: 1234,
        ended: UNIX_EPOCH + Duration::from_millis(1_795_237_200_123),
        duration: Duration::from_micros(2_003_004),
        receive: Duration::from_micros(1),
        queue: Duration::from_micros(2),
        application: Duration::from_millis(2003),
        suspended: Duration::from_millis(3),
        send: Duration::from_micros(1),
        complete: true,
        request_field,
        response_field: &|name| (name == b"etag").then_some(b"\"x\""),
        fields: &|| [vec![(b"X-A", b"a\0b")], vec![(b"ETag", b"\"x\"")]],
        environ: &[],
    }
}

#[test]
fn atoms_have_every_name_and_value_once() {
    let entry = entry(&|_| None);
    let atoms = String::from_utf8(entry.atoms(4711)).unwrap();
    let words: Vec<_> = atoms.split('\0').collect();
    let value = |name| words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
    assert_eq!(
        (value("h"), value("s"), value("B"), value("p")),
        (Some("192.0.2.7"), Some("200"), Some("1234"), Some("<4711>"))
    );
    assert_eq!((value("r"), value("L")), (Some("GET /a?b=c HTTP/1.1"), Some("2.003004")));
    assert_eq!((value("{x-a}i"), value("{etag}o")), (Some(r"a\x00b"), Some(r#"\"x\""#)));
    assert_eq!(words.len(), 2 * (ATOMS.len() + 2));
}

#[test]
fn line_in_the_default_format_is_gunicorns() {
    let fields: &Fields = &[
        (b"authorization", b"Basic YWxpY2U6c2VjcmV0"),
        (b"referer", b"http://example.org/"),
        (b"user-agent", b"curl/8"),
    ];
    let expected = "192.0.2.7 - alice [21/Nov/2026:05:00:00 +0000] \"GET /a?b=c HTTP/1.1\" 200 1234 \
                    \"http://example.org/\" \"curl/8\"\n";
    assert_eq!(written(DEFAULT, fields), expected);
    assert_eq!(written("combined", fields), expected);
}

#[test]
fn line_in_common_format_ends_with_the_bytes() {
    let expected = "192.0.2.7 - - [21/Nov/2026:05:00:00 +0000] \"GET /a?b=c HTTP/1.1\" 200 1234\n";
    assert_eq!(written("common", &[]), expected);
}

#[test]
fn atom_by_atom_is_written() {
    let process = format!("<{}>", std::process::id());
    for (atom, expected) in [
        ("m", "GET"),
        ("U", "/a"),
        ("q", "b=c"),
        ("H", "HTTP/1.1"),
        ("s", "200"),
        ("B", "1234"),
        ("b", "1234"),
        ("f", "-"),
        ("a", "-"),
        ("T", "2"),
        ("D", "2003004"),
        ("M", "2003"),
        ("L", "2.003004"),
        ("p", &process),
        ("receive", "1"),
        ("queue", "2"),
        ("application", "2003000"),
        ("send", "1"),
        ("complete", "yes"),
        ("{ETag}o", "\\\"x\\\""),
        ("{x-none}o", "-"),
        ("{x-none}i", "-"),
        ("{X_NONE}e", "-"),
    ] {
        assert_eq!(written(&format!("%({atom})s"), &[]), format!("{expected}\n"), "{atom}");
    }
}

#[test]
fn field_is_found_in_whatever_case_the_format_has() {
    assert_eq!(written("%({X-Request-ID}i)s", &[(b"x-request-id", b"7")]), "7\n");
}

#[test]
fn trace_is_that_of_a_well_formed_field() {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (value, is_known) in [
        (format!("00-{id}-00f067aa0ba902b7-01"), true),
        (format!("cc-{id}-00f067aa0ba902b7-01-later"), true),
        (format!("00-{id}-00f067aa0ba902b7-01-later"), false),
        (format!("ff-{id}-00f067aa0ba902b7-01"), false),
        (format!("00-{id}-0000000000000000-01"), false),
        (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false),
        (format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()), false),
        (format!("00-{id}-00f067aa0ba902b7"), false),
        (format!("00-{id}"), false),
    ] {
        let fields = vec![(&b"traceparent"[..], value.clone().leak().as_bytes())].leak();
        assert_eq!(written("%(trace_id)s", fields), format!("{}\n", if is_known { id } else { "-" }), "{value}");
    }
}

#[test]
fn environ_value_is_found_by_its_name() {
    let values: &'static [(String, String)] = Box::leak(Box::new([("X".to_owned(), "a\nb".to_owned())]));
    assert_eq!(written_with("%({X}e)s", &[], |entry| entry.environ = values), "a\\x0ab\n");
}

#[test]
fn unix_client_and_empty_answer_are_dashes() {
    let text = written_with("%(h)s %(b)s %(B)s", &[], |entry| (entry.remote, entry.body_bytes) = (None, 0));
    assert_eq!(text, "- - 0\n");
}

#[test]
fn request_that_was_none_is_a_dash() {
    let text = written_with("%(r)s %(m)s %(U)s %(H)s", &[], |entry| {
        (entry.request_line, entry.method, entry.path, entry.protocol) = (b"", b"", b"", "");
    });
    assert_eq!(text, "- - - -\n");
}

#[test]
fn client_that_forges_stays_in_its_line() {
    // "a b\n:x" and "x:", both in base64
    let fields: &Fields = &[
        (b"authorization", b"Basic YSBiCjp4"),
        (b"referer", b"\" 200 1 \"-\" \"-\"\n1.2.3.4"),
        (b"user-agent", b"\x1b]0;x\x07\xff\\"),
    ];
    let expected = "192.0.2.7 - a\\x20b\\x0a [21/Nov/2026:05:00:00 +0000] \"GET /a?b=c HTTP/1.1\" 200 1234 \
                    \"\\\" 200 1 \\\"-\\\" \\\"-\\\"\\x0a1.2.3.4\" \"\\x1b]0;x\\x07\\xff\\\\\"\n";
    assert_eq!(written(DEFAULT, fields), expected);
}

#[test]
fn credentials_without_a_user_are_a_dash() {
    for value in ["Bearer abc", "Basic", "Basic !!!!", "Basic OnNlY3JldA==", "Basic YWxpY2U="] {
        let fields = vec![(&b"authorization"[..], value.as_bytes())].leak();
        assert_eq!(written("%(u)s", fields), "-\n", "{value}");
    }
    assert_eq!(written("%(u)s", &[(b"authorization", b"bAsIc   YWxpY2U6")]), "alice\n");
}

#[test]
fn base64_of_every_remainder_is_decoded() {
    for (text, decoded) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
        assert_eq!(decode_base64(text.as_bytes(), 100), Some(decoded.as_bytes().to_vec()));
    }
    assert_eq!(decode_base64(b"Zm9vYmFy", 2), Some(b"fo".to_vec()));
    assert_eq!(decode_base64(b"+/+/", 9), Some(vec![0xfb, 0xff, 0xbf]));
}

#[test]
fn line_in_json_has_every_key() {
    let fields: &Fields = &[(b"user-agent", b"a\"\xe9\n")];
    let expected = format!(
        "{{\"time\":\"2026-11-21T05:00:00.123Z\",\"remote\":\"192.0.2.7\",\"method\":\"GET\",\"path\":\"/a\",\
         \"query\":\"b=c\",\"protocol\":\"HTTP/1.1\",\"status\":200,\"bytes\":1234,\"complete\":true,\"referer\":null,\
         \"user_agent\":\"a\\\"\\u00e9\\u000a\",\"request_id\":null,\"trace_id\":null,\"proxy_queue_us\":null,\"duration_us\":2003004,\"receive_us\":1,\"queue_us\":2,\
         \"application_us\":2003000,\"suspended_us\":3000,\"send_us\":1,\"pid\":{}}}\n",
        std::process::id()
    );
    assert_eq!(written("json", fields), expected);
}

#[test]
fn log_that_is_off_is_none() {
    assert!(AccessLog::new(&config("none", "common")).unwrap().is_none());
}

#[test]
fn log_with_a_wrong_format_is_refused_even_when_off() {
    let error = AccessLog::new(&config("none", "%(x)s")).unwrap_err();
    assert!(error.downcast_ref::<super::super::FormatError>().is_some());
}

#[test]
fn log_that_cannot_be_opened_says_why() {
    let error = AccessLog::new(&config("/nowhere/log", "common")).unwrap_err();
    assert_eq!(crate::sys::plain(error.as_ref()), "cannot open the access log /nowhere/log: No such file or directory");
}

#[test]
fn environ_names_are_the_formats() {
    let log = AccessLog::new(&config("/dev/null", "%({A}e)s %({B}e)s")).unwrap().unwrap();
    assert_eq!(log.environ_names(), ["A", "B"]);
}

/// `cargo test --release --lib -- --ignored --nocapture access_line_cost`
#[test]
#[ignore = "measures"]
fn access_line_cost_is_small() {
    let log = AccessLog::new(&config("/dev/null", DEFAULT)).unwrap().unwrap();
    let find = |name: &[u8]| -> Option<&'static [u8]> {
        match name {
            b"user-agent" => Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
            b"referer" => Some(b"https://example.org/some/page?with=query"),
            _ => None,
        }
    };
    let entry = entry(Box::leak(Box::new(find)));
    let (rounds, lines) = (200, 1000);
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        let start = std::time::Instant::now();
        (0..lines).for_each(|_| log.write(&entry));
        spent += start.elapsed();
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{} ns a line", spent.as_nanos() / (rounds * lines));
}
