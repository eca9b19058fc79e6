//! A table of requests behind proxies: who the client is, and which URL it requested.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::handler::Local;
use crate::http::Limits;

const LIMITS: Limits =
    Limits { request_line_bytes_max: 8190, fields_max: 100, field_bytes_max: 8190, head_bytes_max: 65536 };

/// Returns what a request has as its origin: what differs from the connection, in words. The request comes from `peer`,
/// asks for the host `app`, and has these fields.
fn told(options: &[&str], peer: &str, fields: &[&str]) -> String {
    told_by(&trust(options), peer, fields)
}

fn trust(options: &[&str]) -> Trust {
    Trust::new(&Config::parse_from(["maypole", "m:app"].iter().chain(options)).unwrap())
}

fn told_by(trust: &Trust, peer: &str, fields: &[&str]) -> String {
    let head = format!(
        "GET / HTTP/1.1\r\nHost: app\r\n{}\r\n",
        fields.iter().flat_map(|it| [*it, "\r\n"]).collect::<String>()
    );
    let head = RequestHead::parse(head.as_bytes(), &LIMITS).unwrap();
    assert!(head.tells_of_proxies(), "{fields:?}");
    let (client, local) = match peer {
        "unix" => (None, Local::Unix(PathBuf::from("/s"))),
        peer => (Some(SocketAddr::new(peer.parse().unwrap(), 9)), Local::Tcp("10.0.0.1:8000".parse().unwrap())),
    };
    let connected = Origin::new(client, Arc::new(local));
    let (origin, ignored) = trust.origin(&head, &connected);
    let told = origin.told.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut parts = Vec::new();
    match ignored {
        Some(Ignored::Untrusted) => parts.push("untrusted".to_owned()),
        Some(Ignored::Wrong(field)) => parts.push(format!("wrong {field}")),
        None => {}
    }
    if origin.client != connected.client {
        let client = origin.client.unwrap();
        parts.push(if client.port() == 0 { client.ip().to_string() } else { client.to_string() });
    }
    if origin.scheme != connected.scheme {
        parts.push(origin.scheme.as_str().to_owned());
    }
    parts.extend(origin.host.as_deref().map(|host| format!("host={}", text(host))));
    parts.extend(told.server_name.as_deref().map(|name| format!("name={}", text(name))));
    parts.extend(told.server_port.map(|port| format!("port={port}")));
    if !told.prefix.is_empty() {
        parts.push(format!("prefix={}", text(&told.prefix)));
    }
    assert_eq!(told.hidden == Hidden::ALL, ignored.is_some(), "{fields:?}");
    parts.join(" ")
}

/// Two proxies with addresses in 10.0.0.0/8.
const TEN: &[&str] = &["--forwarded-allow-ips", "10.0.0.0/8"];
/// The header of RFC 7239, from proxies in 10.0.0.0/8.
const RFC: &[&str] = &["--forwarded-allow-ips", "10.0.0.0/8", "--forwarded-headers", "forwarded"];
/// Every proxy is trusted that connects.
const ALL: &[&str] = &["--forwarded-allow-ips", "*"];
/// Each request passes two proxies, whatever their addresses.
const TWO: &[&str] = &["--forwarded-allow-ips", "10.0.0.0/8", "--trusted-proxy-count", "2"];

#[test]
fn proxies_that_are_not_trusted_tell_nothing() {
    let one = &["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil"];
    for (options, peer, expected) in [
        (&[][..], "203.0.113.9", "untrusted"),
        (&[], "127.0.0.1", "1.2.3.4 https host=evil name=evil port=443"),
        (&[], "::1", "1.2.3.4 https host=evil name=evil port=443"),
        (&[], "::ffff:127.0.0.1", "1.2.3.4 https host=evil name=evil port=443"),
        (&[], "127.0.0.2", "untrusted"),
        (&[], "unix", "1.2.3.4 https host=evil name=evil port=443"),
        (TEN, "127.0.0.1", "untrusted"),
        (TEN, "10.9.9.9", "1.2.3.4 https host=evil name=evil port=443"),
        (TEN, "unix", "1.2.3.4 https host=evil name=evil port=443"),
        (ALL, "203.0.113.9", "1.2.3.4 https host=evil name=evil port=443"),
        (TWO, "203.0.113.9", "untrusted"),
        // The fields of the other custom count for nothing.
        (RFC, "10.0.0.2", ""),
    ] {
        assert_eq!(told(options, peer, one), expected, "{options:?} {peer}");
    }
    assert_eq!(told(TEN, "10.0.0.2", &["Forwarded: for=1.2.3.4"]), "");
}

#[test]
fn client_is_the_last_address_before_the_trusted_proxies() {
    for (options, fields, expected) in [
        (TEN, &["X-Forwarded-For: 1.2.3.4"][..], "1.2.3.4"),
        // A client has sent an address, and the proxy has added the right one.
        (TEN, &["X-Forwarded-For: 6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: 127.0.0.1, 1.2.3.4"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: 10.0.0.9, 1.2.3.4"], "1.2.3.4"),
        // In lines of their own.
        (TEN, &["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 1.2.3.4"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 1.2.3.4, 10.0.0.3"], "1.2.3.4"),
        // Two proxies, and the client before them.
        (TEN, &["X-Forwarded-For: 1.2.3.4, 10.0.0.3"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.3"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: 1.2.3.4, 10.0.0.3,10.0.0.4 , 10.0.0.5"], "1.2.3.4"),
        // The client is in the proxies' own network.
        (TEN, &["X-Forwarded-For: 10.0.0.77"], "10.0.0.77"),
        (TEN, &["X-Forwarded-For: 10.0.0.77, 10.0.0.3"], "10.0.0.77"),
        // Garbage of the client does not reach what the proxy has added.
        (TEN, &["X-Forwarded-For: <script>, 1.2.3.4"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: \"6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: , ,1.2.3.4,"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: ", "X-Forwarded-For: 1.2.3.4"], "1.2.3.4"),
        // Ports and IPv6.
        (TEN, &["X-Forwarded-For: 1.2.3.4:5678"], "1.2.3.4:5678"),
        (TEN, &["X-Forwarded-For: 2001:db8::7"], "2001:db8::7"),
        (TEN, &["X-Forwarded-For: [2001:db8::7]"], "2001:db8::7"),
        (TEN, &["X-Forwarded-For: [2001:db8::7]:5678"], "[2001:db8::7]:5678"),
        (TEN, &["X-Forwarded-For: ::ffff:1.2.3.4"], "1.2.3.4"),
        (TEN, &["X-Forwarded-For: 1.2.3.4, ::ffff:10.0.0.3"], "1.2.3.4"),
        // Addresses that are not told.
        (TEN, &["X-Forwarded-For: unknown"], ""),
        (TEN, &["X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.3"], "10.0.0.3"),
        (TEN, &["X-Forwarded-For: _hidden"], ""),
        (TEN, &["X-Forwarded-For: "], ""),
        // With * only the proxy that connects is trusted.
        (ALL, &["X-Forwarded-For: 6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        // A number of proxies.
        (TWO, &["X-Forwarded-For: 1.2.3.4, 203.0.113.5"], "1.2.3.4"),
        (TWO, &["X-Forwarded-For: 6.6.6.6, 1.2.3.4, 203.0.113.5"], "1.2.3.4"),
        (TWO, &["X-Forwarded-For: 1.2.3.4"], "1.2.3.4"),
        (TWO, &["X-Forwarded-For: 1.2.3.4, unknown"], "1.2.3.4"),
    ] {
        assert_eq!(told(options, "10.0.0.2", fields), expected, "{fields:?}");
    }
    for wrong in [
        "6.6.6.6, 1.2.3",
        "1.2.3.4 5.6.7.8",
        "1.2.3.4:99999",
        "[::1",
        "::1]",
        "localhost",
        "1.2.3.4;x",
        "\"1.2.3.4\"",
        "0x7f.1",
        "127.1",
        "2130706433",
        "1.2.3.4/8",
        "\u{e9}",
        "bogus, 10.0.0.3",
    ] {
        let field = format!("X-Forwarded-For: {wrong}");
        assert_eq!(told(TEN, "10.0.0.2", &[&field, "X-Forwarded-Proto: https"]), "wrong X-Forwarded-For", "{wrong}");
    }
}

#[test]
fn url_is_that_of_the_proxy_which_the_client_has_reached() {
    for (options, fields, expected) in [
        (TEN, &["X-Forwarded-Proto: https"][..], "https port=443"),
        (TEN, &["X-Forwarded-Proto: HTTPS"], "https port=443"),
        (TEN, &["X-Forwarded-Proto: wss"], "https port=443"),
        (TEN, &["X-Forwarded-Proto: http"], "port=80"),
        (TEN, &["X-Forwarded-Host: shop.example"], "host=shop.example name=shop.example port=80"),
        (TEN, &["X-Forwarded-Host: shop.example:8443"], "host=shop.example:8443 name=shop.example port=8443"),
        (TEN, &["X-Forwarded-Host: [2001:db8::1]"], "host=[2001:db8::1] name=[2001:db8::1] port=80"),
        (TEN, &["X-Forwarded-Host: [2001:db8::1]:81"], "host=[2001:db8::1]:81 name=[2001:db8::1] port=81"),
        (
            TEN,
            &["X-Forwarded-Host: a.example", "X-Forwarded-Proto: https"],
            "https host=a.example name=a.example port=443",
        ),
        // A port that the host does not name is added, unless it is the scheme's own.
        (TEN, &["X-Forwarded-Port: 8443"], "host=app:8443 port=8443"),
        (TEN, &["X-Forwarded-Port: 443", "X-Forwarded-Proto: https"], "https port=443"),
        (TEN, &["X-Forwarded-Port: 80", "X-Forwarded-Proto: https"], "https host=app:80 port=80"),
        (TEN, &["X-Forwarded-Port: 80", "X-Forwarded-Host: a:8080"], "host=a:8080 name=a port=8080"),
        (TEN, &["X-Forwarded-Prefix: /shop"], "prefix=/shop"),
        (TEN, &["X-Forwarded-Prefix: /shop/"], "prefix=/shop"),
        (TEN, &["X-Forwarded-Prefix: /a/b%20c"], "prefix=/a/b%20c"),
        (TEN, &["X-Forwarded-Prefix: /"], ""),
        // The client has sent a value, and the proxy has added one.
        (TEN, &["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https, http"], "1.2.3.4 port=80"),
        (TEN, &["X-Forwarded-Host: evil", "X-Forwarded-Host: good"], "host=good name=good port=80"),
        // Each of two proxies has added a value; the first one has talked to the client.
        (TEN, &["X-Forwarded-For: 1.2.3.4, 10.0.0.3", "X-Forwarded-Proto: https, http"], "1.2.3.4 https port=443"),
        (
            TEN,
            &["X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.3", "X-Forwarded-Proto: http, https, http"],
            "1.2.3.4 https port=443",
        ),
        (TWO, &["X-Forwarded-Proto: https, http"], "https port=443"),
        // The second proxy has passed the value of the first one on.
        (TEN, &["X-Forwarded-For: 1.2.3.4, 10.0.0.3", "X-Forwarded-Proto: https"], "1.2.3.4 https port=443"),
    ] {
        assert_eq!(told(options, "10.0.0.2", fields), expected, "{fields:?}");
    }
    for (name, values) in [
        ("X-Forwarded-Proto", &["ftp", "https;", "on", "\"https\"", "ht tp"][..]),
        ("X-Forwarded-Host", &["a b", "a/b", "u@a", "a:x", "[::1", "a:99999", "\"a\""]),
        ("X-Forwarded-Port", &["0", "-1", "+80", "65536", "x", "80 81"]),
        ("X-Forwarded-Prefix", &["shop", "//evil.example", "/a//b", "/a/../b", "/.", "/a?b", "/a b", "\\a", "/\u{e9}"]),
        // What an application would see after the escapes are decoded.
        ("X-Forwarded-Prefix", &["/%2Fevil.example", "/%2f", "/%5Cevil.example", "/%2e%2e/a", "/a/%2E", "/.%2e"]),
        ("X-Forwarded-Prefix", &["/a%00", "/a%0d%0aX:y", "/%7f", "/%", "/a%2", "/%zz"]),
    ] {
        for value in values {
            let field = format!("{name}: {value}");
            let told = told(TEN, "10.0.0.2", &["X-Forwarded-For: 1.2.3.4", &field]);
            assert_eq!(told, format!("wrong {name}"), "{field}");
        }
    }
    // Two words about three proxies contradict each other.
    let three = &["X-Forwarded-For: 1.2.3.4, 10.0.0.3, 10.0.0.4", "X-Forwarded-Proto: https, http"];
    assert_eq!(told(TEN, "10.0.0.2", three), "wrong X-Forwarded-Proto");
}

#[test]
fn forwarded_is_read_like_the_others() {
    for (fields, expected) in [
        (&["Forwarded: for=1.2.3.4"][..], "1.2.3.4"),
        (&["Forwarded: For=\"[2001:db8:cafe::17]:4711\""], "[2001:db8:cafe::17]:4711"),
        (&["Forwarded: for=1.2.3.4;proto=https;by=10.0.0.2"], "1.2.3.4 https port=443"),
        (
            &["forwarded: for=1.2.3.4; host=\"a.example:81\"; proto=http"],
            "1.2.3.4 host=a.example:81 name=a.example port=81",
        ),
        // What the client has sent stands to the left.
        (&["Forwarded: for=6.6.6.6;proto=https, for=1.2.3.4;proto=http"], "1.2.3.4 port=80"),
        (&["Forwarded: for=6.6.6.6;proto=https", "Forwarded: for=1.2.3.4"], "1.2.3.4"),
        (&["Forwarded: for=\", for=1.2.3.4"], "1.2.3.4"),
        (&["Forwarded: for=\"6.6.6.6, for=1.2.3.4"], "1.2.3.4"),
        (&["Forwarded: garbage, , for=1.2.3.4"], "1.2.3.4"),
        // Two proxies: the first one's words are those about the client.
        (
            &["Forwarded: for=1.2.3.4;proto=https;host=a, for=10.0.0.3;proto=http;host=b"],
            "1.2.3.4 https host=a name=a port=443",
        ),
        (&["Forwarded: for=1.2.3.4", "Forwarded: for=10.0.0.3, for=10.0.0.4"], "1.2.3.4"),
        (&["Forwarded: for=\"_gazonk\";proto=https"], "https port=443"),
        (&["Forwarded: for=unknown"], ""),
        (&["Forwarded: proto=https"], "https port=443"),
        (&["Forwarded: for=1.2.3.4;ext=x;other=\"a,b;c\""], "1.2.3.4"),
    ] {
        assert_eq!(told(RFC, "10.0.0.2", fields), expected, "{fields:?}");
    }
    for wrong in [
        "for=1.2.3",
        "for=1.2.3.4;for=5.6.7.8",
        "for=1.2.3.4;proto=ftp",
        "for=1.2.3.4;host=\"a b\"",
        "for=1.2.3.4 proto=https",
        "1.2.3.4",
        "for=",
        "for=\"1.2.3.4",
        "for=1.2.3.4;",
        "for=1.2.3.4;proto=https;proto=http",
    ] {
        assert_eq!(told(RFC, "10.0.0.2", &[&format!("Forwarded: {wrong}")]), "wrong Forwarded", "{wrong}");
    }
}

#[test]
fn fields_are_left_alone_on_request() {
    assert!(!trust(&["--forwarded-headers", "none"]).reads_fields());
    let trust = trust(&["--strip-untrusted-forwarded", "off"]);
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    let connected = Origin::new("9.9.9.9:9".parse().ok(), Arc::new(Local::Tcp("10.0.0.1:80".parse().unwrap())));
    let (origin, ignored) = trust.origin(&RequestHead::parse(head, &LIMITS).unwrap(), &connected);
    assert_eq!((origin.client, ignored), (connected.client, Some(Ignored::Untrusted)));
    assert_eq!(origin.told.unwrap().hidden, Hidden::default());
}

#[test]
fn damaged_values_break_nothing() {
    let (mut state, mut wrong) = (1_u64, 0);
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let pieces = [
        "1.2.3.4", "10.0.0.3", "[::1]", ":80", ",", ";", "=", "\"", "\\", "for", "proto", "https", "host", "a.b", "[",
        "]", "/", "%2f", " ", "unknown", "\u{e9}",
    ];
    let (ten, rfc) = (trust(TEN), trust(RFC));
    for _ in 0..20_000 {
        let value: String = (0..random(9)).map(|_| pieces[random(pieces.len())]).collect();
        let name =
            ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix"];
        wrong +=
            usize::from(told_by(&ten, "10.0.0.2", &[&format!("{}: {value}", name[random(5)])]).starts_with("wrong"));
        wrong += usize::from(told_by(&rfc, "10.0.0.2", &[&format!("Forwarded: {value}")]).starts_with("wrong"));
    }
    assert!((10_000..39_000).contains(&wrong), "{wrong}");
}
