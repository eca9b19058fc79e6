//! What the environ offers beyond PEP 3333, and `wsgi.errors`.

use maypole::handler::RequestBody;

use crate::app::{App, logged, python};

#[test]
fn early_hints_are_checked_and_sent_before_the_head() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    hints = e['wsgi.early_hints']
    for bad in ('a\r\nb', b'a', 'a\0'):
        try:
            hints([('Link', bad)])
        except (ValueError, TypeError):
            events.append('refused')
    hints([('Link', '</a.css>; rel=preload'), ('Link', '</b.js>'), ('Content-Length', '3')])
    ok(sr)
    return [b'abc']
",
        );
        let reply = app.get();
        assert_eq!(
            String::from_utf8_lossy(&reply.interim),
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n\r\n"
        );
        assert_eq!((reply.status, reply.text()), (200, "abc"));
        assert_eq!(app.events(), ["refused"; 3]);
        assert_eq!(app.send("GET / HTTP/1.0\r\n\r\n", RequestBody::Empty).interim, b"");
    });
}

#[test]
fn continue_is_sent_with_fields_as_often_as_asked_before_the_head() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    go_on = e['maypole.send_continue']
    for bad in ([('X', 'a\r\nb')], [('X', b'a')], [('X',)]):
        try:
            go_on(bad)
        except (ValueError, TypeError):
            events.append('refused')
    fields = ((n, v) for n, v in [('X-A', '1'), ('Connection', 'x')])
    events.append(f'{go_on()} {go_on(headers=fields)}')
    ok(sr)(b'abc')
    events.append(f'late {go_on([])}')
    return [b'']
",
        );
        let reply = app.get();
        assert_eq!(
            String::from_utf8_lossy(&reply.interim),
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n"
        );
        assert_eq!((reply.status, reply.text()), (200, "abc"));
        assert_eq!(app.events(), ["refused", "refused", "refused", "True True", "late False"]);
        assert_eq!(app.send("GET / HTTP/1.0\r\n\r\n", RequestBody::Empty).interim, b"");
        assert_eq!(app.events()[8..], ["False False", "late False"]);
    });
}

#[test]
fn errors_takes_text_of_any_kind() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    w = e['wsgi.errors']
    assert w.write('MARK-1 \u20ac\xe9\nMARK-2 ') == 13 + 4
    w.writelines(['\ud800', 'end\n', 'MARK-3 rest'])
    w.flush()
    print('MARK-4', file=w)
    w.write('MARK-5')
    ok(sr)
    return [b'ok']
",
        );
        assert_eq!(app.get().text(), "ok");
        for mark in ["MARK-1 \u{20ac}\u{e9}", "MARK-2 \\ud800end", "MARK-3 rest", "MARK-4", "MARK-5"] {
            assert!(logged(&format!("wsgi.errors: GET / HTTP/1.1: {mark}")), "{mark}");
        }
    });
}
