"""The logs: the content of lines, escaping of text from clients, and the destinations."""

import contextlib
import datetime
import json
import os
import re
import time

import pytest

from client import PATIENCE
from process import START_PATIENCE, eventually, run

CLIENT = r"127\.0\.0\.1"
STAMP = r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


def logged(server, format, requests=("GET /x?a=b HTTP/1.1",), fields=(), body=b""):
    """Returns the access lines of some requests in a format."""
    running = server("probe", "--access-logfile", "-", "--access-logformat", format)
    with running.client() as client:
        for line in requests:
            extra = [f"Content-Length: {len(body)}"] if body else []
            client.request(line, *fields, *extra, body=body).response(line.partition(" ")[0])
    running.out.wait(r"(?:.*\n){%d}" % len(requests))
    running.stop()
    return running.out.wait_end().splitlines()


def test_default_format_is_combined(server):
    running = server("probe", "--access-logfile", "-")
    running.get("/x?a=b", "Referer: http://r/", "User-Agent: me/1")
    line = running.out.wait(r".*\n")[0]
    assert re.fullmatch(CLIENT + " - - " + STAMP + r' "GET /x\?a=b HTTP/1\.1" 200 14 "http://r/" "me/1"\n', line), line


@pytest.mark.smoke
def test_common(server):
    line, = logged(server, "common")
    assert re.fullmatch(CLIENT + " - - " + STAMP + r' "GET /x\?a=b HTTP/1\.1" 200 14', line), line


def test_combined(server):
    line, = logged(server, "combined")
    assert line.endswith('"GET /x?a=b HTTP/1.1" 200 14 "-" "-"'), line


@pytest.mark.parametrize(
    "args, lines",
    [
        (["--access-log-slower-than", "60s"], ["/status"]),
        (["--access-log-slower-than", "0"], ["/1", "/2", "/3", "/4", "/status", "/5"]),
        (["--access-log-sample", "50%"], ["/1", "/3", "/status", "/5"]),
        (["--access-log-slower-than", "60s", "--access-log-sample", "0.5"], ["/1", "/3", "/status", "/5"]),
    ],
)
def test_only_some_requests_have_a_line(server, args, lines):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "%(U)s", *args)
    with running.client() as client:
        for path in ["/1", "/2", "/3", "/4", "/status?s=500+Broken", "/5"]:
            client.get(path)
    running.stop()
    assert running.out.wait_end().splitlines() == lines


@pytest.mark.parametrize(
    "atom, expected",
    [
        ("%(h)s", CLIENT), ("%(l)s", "-"), ("%(u)s", "ann"), ("%(t)s", STAMP), ("%(r)s", r"GET /x\?a=b HTTP/1\.1"),
        ("%(m)s", "GET"), ("%(U)s", "/x"), ("%(q)s", "a=b"), ("%(H)s", r"HTTP/1\.1"), ("%(s)s", "200"), ("%(b)s", "14"),
        ("%(B)s", "14"), ("%(f)s", "http://r/"), ("%(a)s", "me/1"), ("%(T)s", r"\d+"), ("%(D)s", r"\d+"),
        ("%(M)s", r"\d+"), ("%(L)s", r"\d+\.\d{6}"), ("%(p)s", r"<\d+>"), ("%({x-in}i)s", "v w"), ("%({X-IN}i)s", "v w"),
        ("%({content-type}o)s", "text/plain"), ("%({REQUEST_METHOD}e)s", "GET"), ("%({x-none}i)s", "-"),
        ("%({no.such}e)s", "-"), ("a%%b", "a%b"), ("%(receive)s %(queue)s %(application)s %(suspended)s %(send)s", r"\d+ \d+ \d+ 0 \d+"),
        ("%(complete)s", "yes"),
    ],
)
def test_atom(server, atom, expected):
    line, = logged(server, atom, fields=["User-Agent: me/1", "Referer: http://r/", "X-In: v w", "Authorization: Basic YW5uOnNlY3JldA=="])
    assert re.fullmatch(expected, line), line


def test_no_body_is_a_dash_or_a_zero(server):
    line, = logged(server, "%(b)s %(B)s", ["GET /status?s=204%20No%20Content HTTP/1.1"])
    assert line == "- 0"


def test_bytes_are_those_of_the_body_as_sent(server):
    lines = logged(server, "%(B)s", ["GET /big?n=100000 HTTP/1.1", "HEAD /big?n=100000 HTTP/1.1"])
    assert lines == ["100000", "0"]


@pytest.mark.smoke
def test_json(server):
    line, = logged(server, "json", fields=['User-Agent: a"b\\c'])
    said = json.loads(line)
    expected = {"remote": "127.0.0.1", "method": "GET", "path": "/x", "query": "a=b", "protocol": "HTTP/1.1",
                "status": 200, "bytes": 14, "referer": None, "user_agent": 'a"b\\c',
                "request_id": None, "trace_id": None, "proxy_queue_us": None}
    assert {k: said[k] for k in expected} == expected
    for key in ("duration_us", "receive_us", "queue_us", "application_us", "suspended_us", "send_us", "pid"):
        assert isinstance(said[key], int) and said[key] >= 0, key
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", said["time"])


def test_response_that_broke_in_the_middle_is_marked(server):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "json")
    with running.client() as whole, running.client(receive_buffer=4096) as broken, running.client() as left:
        whole.get("/big?n=100000")
        broken.request("GET /big?n=10000001 HTTP/1.1").head()
        broken.reset()
        left.request("GET /hold/mark HTTP/1.1")
        assert running.get("/held/mark").body == b"yes"
        left.reset()
        running.out.wait(r"n=100000\b.*\n")
        running.out.wait(r"/hold/mark.*\n")
        running.out.wait(r"n=10000001.*\n")
        running.get("/release/mark")
    said = {(line["path"], line["query"]): line for line in map(json.loads, running.out.text().splitlines())}
    assert said["/big", "n=100000"]["complete"] is True
    cut = said["/big", "n=10000001"]
    assert (cut["status"], cut["complete"]) == (200, False) and cut["bytes"] <= 10000001
    assert (said["/hold/mark", ""]["status"], said["/hold/mark", ""]["complete"]) == (499, False)


def test_time_split_tells_who_was_slow(server):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "json", "--pool-size", "1", "--threads", "1")
    with running.client() as one, running.client() as two:
        one.request("GET /sleep?s=0.3 HTTP/1.1")
        two.request("POST /echo HTTP/1.1", "Content-Length: 2", "Expect: 100-continue")
        # The server has begun to receive this request.
        assert two.head().status == 100
        assert two.quiet(0.2)
        two.send(b"ab")
        one.response()
        two.response()
    running.out.wait(r"(?:.*\n){2}")
    first, second = sorted(map(json.loads, running.out.text().splitlines()), key=lambda said: said["path"], reverse=True)
    assert first["application_us"] >= 290_000
    assert second["receive_us"] >= 190_000
    assert second["application_us"] < first["application_us"]
    for said in (first, second):
        parts = said["receive_us"] + said["queue_us"] + said["application_us"] + said["send_us"]
        assert parts <= said["duration_us"] * 1.2 + 50_000


def test_queue_time(server, tmp_path):
    gate, options = tmp_path / "gate", ("--access-logfile", "-", "--access-logformat", "%(U)s %(queue)s", "--pool-size", "1")
    running = server("gated", *options, env={"GATE": str(gate)})
    with running.client() as one, running.client() as two:
        one.request("GET /gate0 HTTP/1.1")
        running.err.wait("called /gate0")
        two.request("GET /x HTTP/1.1")
        eventually(lambda: ", 1 request waiting for one;" in running.report()[0], what="that the request waits")
        assert two.quiet(0.25)
        gate.touch()
        assert one.response().status == two.response().status == 200
    assert int(running.out.wait(r"/x (\d+)\n")[1]) >= 250_000


# --- text from clients --------------------------------------------------------------------------------------------

EVIL = [
    ("quote", 'a" 200 14 "b'),
    ("latin", "caf\xe9"),
    ("backslash", "a\\nb"),
    ("percent", "%(s)s %s %n"),
    ("brace", '{"a":1}'),
]


@pytest.mark.parametrize("value", [value for _, value in EVIL], ids=[what for what, _ in EVIL])
def test_agent_cannot_break_the_line(server, value):
    line, = logged(server, '"%(a)s" end', fields=[f"User-Agent: {value}"])
    match = re.fullmatch(r'"((?:[^"\\]|\\.)*)" end', line)
    assert match, line
    assert all(" " <= character <= "~" for character in line), line


def test_path_cannot_break_the_line(server):
    lines = logged(server, "%(r)s|%(U)s|%(q)s", ["GET /x/%0a%0dfake%1b[0m?%22=%0a HTTP/1.1"])
    assert len(lines) == 1
    assert all(" " <= character <= "~" for character in lines[0])


def test_json_escapes(server):
    line, = logged(server, "json", ["GET /x/%22%0a?q=%22 HTTP/1.1"], fields=['User-Agent: "}\\ caf\xe9'])
    assert json.loads(line)["user_agent"].startswith('"}\\ caf')


def test_application_cannot_break_the_line_either(server):
    line, = logged(server, "%({HTTP_X_IN}e)s end", fields=['X-In: a"b\\'])
    assert line.endswith(" end")


def test_refused_requests_are_logged_escaped(server):
    running = server("probe", "--access-logfile", "-", "--log-level", "debug")
    with running.client() as client:
        client.send(b"GET /\x1b[31m\x07\x00 HTTP/1.1\r\nHost: a\r\n\r\n").response()
    running.get("/x")
    running.out.wait("GET /x ")
    running.stop()
    for text in (running.out.wait_end(), running.err.wait_end()):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text), text


def test_error_log_escapes_the_request_line(server):
    running = server("probe")
    running.get("/fail?%1b[31m%0aforged")
    running.err.wait("made to fail")
    assert "\x1b" not in running.err.text()
    assert "\nforged" not in running.err.text()


# --- destinations -------------------------------------------------------------------------------------------------


def test_access_log_into_a_file_is_appended_to(server, tmp_path):
    path = tmp_path / "access"
    path.write_text("before\n")
    running = server("probe", "--access-logfile", str(path), "--access-logformat", "%(r)s")
    running.get("/x")
    running.stop()
    assert path.read_text() == "before\nGET /x HTTP/1.1\n"
    assert running.out.wait_end() == ""


def test_no_access_log(server):
    running = server("probe", "--access-logfile", "none")
    running.get("/x")
    running.stop()
    assert running.out.wait_end() == ""
    assert "GET /x" not in running.err.wait_end()


def test_access_log_is_flushed_soon(server):
    running = server("probe", "--access-logfile", "-")
    start = time.monotonic()
    running.get("/x")
    running.out.wait("GET /x")
    assert time.monotonic() - start < PATIENCE / 2


def test_all_lines_are_there_at_the_end(server, tmp_path):
    path = tmp_path / "access"
    running = server("probe", "--access-logfile", str(path), "--access-logformat", "%(q)s")
    with running.client() as client:
        for number in range(1000):
            client.get(f"/x?{number}")
    running.stop()
    assert path.read_text().split() == [str(number) for number in range(1000)]


def test_error_log_into_a_file(server, tmp_path):
    path = tmp_path / "errors"
    running = server("probe", "--error-logfile", str(path), ready=False)
    listening = eventually(lambda: path.exists() and re.search(r"listening on (\S+), pool", path.read_text()), START_PATIENCE)
    running.addresses = listening[1].split(", ")
    assert running.get("/fail").status == 500
    running.stop()
    text = path.read_text()
    assert "ValueError: made to fail" in text and "GET /fail" in text
    assert running.err.wait_end() == ""


def test_log_level(server, tmp_path):
    running = server("probe", "--log-level", "error", "--bind", f"unix:{tmp_path}/socket", bind=False, ready=False)
    running.addresses = [f"unix:{tmp_path}/socket"]

    def serves():
        with contextlib.suppress(OSError):
            return running.get().status == 200

    eventually(serves, START_PATIENCE, "that it serves")
    running.stop()
    assert "listening" not in running.err.text()


@pytest.mark.smoke
def test_shape_of_an_error_line(server):
    running = server("probe")
    line = running.err.text().splitlines()[-1]
    assert re.match(r"\[[^\]]+\] \[%d\] \[INFO\] maypole " % running.pid, line), line


def test_log_file_that_cannot_be_opened():
    done = run("--bind", "127.0.0.1:0", "--access-logfile", "/no/such/directory/log", "probe")
    assert done.returncode in (2, 3)
    assert "/no/such/directory/log" in done.stderr


def test_nobody_reads_the_log_and_it_serves_on(server):
    """If the pipe is full, log lines are lost, but no request fails."""
    read, write = os.pipe()
    os.set_blocking(write, True)
    running = server("probe", "--access-logfile", f"/proc/self/fd/{write}", pass_fds=(write,))
    os.close(write)
    try:
        with running.client() as client:
            for _ in range(3000):
                assert client.get("/x?" + "y" * 100).status == 200
    finally:
        os.close(read)


def refused(server, data, *args, end=True):
    """Sends only this. Returns the line in the access log."""
    running = server("probe", "--access-logfile", "-", "--access-logformat", "%(s)s %(B)s %(D)s %(m)s|%(U)s|%(q)s|%(H)s|%(r)s", *args)
    with running.client() as client:
        client.send(data)
        if end:
            client.half_close()
        client.rest()
    line = running.out.wait(r".*\n")[0].rstrip("\n")
    running.stop()
    assert running.out.wait_end() == line + "\n", "one line for each request"
    return line.split(" ", 3)


@pytest.mark.parametrize(
    ("data", "status", "shown"),
    [
        (b"GET /x?a=b HTTP/1.1\r\nno colon\r\n\r\n", "400", "GET|/x|a=b|HTTP/1.1|GET /x?a=b HTTP/1.1"),
        (b"\r\nGET /x HTTP/1.1\r\n\r\n", "400", "GET|/x||HTTP/1.1|GET /x HTTP/1.1"),
        (b"GET /x HTTP/1.1\r\nHost: h", "400", "GET|/x||HTTP/1.1|GET /x HTTP/1.1"),
        (b"GET /x HTTP/3.0\r\nHost: h\r\n\r\n", "505", "-|-||-|GET /x HTTP/3.0"),
        (b"\x17\x03\x01\0\n\"\x1b[\r\n\r\n", "400", r"-|-||-|\x17\x03\x01\x00"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", "414", "-|-||-|GET /" + "x" * 8185),
    ],
)
def test_head_that_is_refused_has_a_line(server, data, status, shown):
    found, size, duration, line = refused(server, data, "--limit-request-line", "8190")
    assert (found, line) == (status, shown)
    assert int(size) > 0 and int(duration) > 0


def test_head_that_comes_too_slowly_has_a_line(server):
    status, _, duration, line = refused(server, b"GET /slow HTTP/1.1\r\nHo", "--header-timeout", "300ms", end=False)
    assert (status, line) == ("408", "GET|/slow||HTTP/1.1|GET /slow HTTP/1.1")
    assert int(duration) >= 300_000


def test_client_that_resets_in_its_head_has_a_line(server):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "%(s)s %(B)s %(r)s")
    running.client().send(b"GET /part HTTP/1.1\r\nHo").reset()
    assert running.out.wait(r".*\n")[0] == "400 0 GET /part HTTP/1.1\n"


def test_client_that_sends_nothing_has_no_line(server):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "%(s)s %(r)s")
    running.client().close()
    running.client().send(b"\r\n").reset()
    assert running.get("/x").status == 200
    assert running.out.wait(r".*\n")[0] == "200 GET /x HTTP/1.1\n"


@pytest.mark.parametrize(("zone", "offset"), [("XYZ-05:30", "+0530"), ("ABC3", "-0300"), ("UTC", "+0000")])
def test_times_are_local(server, zone, offset):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "%(t)s", env={"TZ": zone})
    began = time.time()
    running.get("/x")
    stamps = [
        (running.out.wait(r"\[(.*)\]\n")[1], "%d/%b/%Y:%H:%M:%S %z"),
        (re.sub(r"\.\d{3}", "", running.err.wait(r"\[(.*?)\].*listening")[1]), "%Y-%m-%d %H:%M:%S %z"),
    ]
    for stamp, form in stamps:
        assert stamp.endswith(offset), stamp
        seconds = datetime.datetime.strptime(stamp, form).timestamp()
        assert abs(seconds - began) < 120, "the same moment"


def test_times_follow_daylight_saving(server):
    """The two zones differ only in summer time. So the test works in summer and in winter."""
    for rule in ("AAA0BBB-1,J1/0,J365/25", "AAA0"):
        running = server("probe", "--access-logfile", "-", "--access-logformat", "%(t)s", env={"TZ": rule})
        running.get("/x")
        stamp = running.out.wait(r"\[(.*)\]\n")[1]
        assert stamp.endswith("+0100" if "BBB" in rule else "+0000"), stamp
