"""`maypole.sse` without a server: the format of events, streams, broadcasts and their histories."""

import gc
import sys
import threading
import types
import weakref

import pytest

from client import PATIENCE

sse = pytest.importorskip("maypole.sse")


class Rest:
    """A server that parks iterations as the contract of `maypole.suspend` says, for one stream."""

    def __init__(self, **environ):
        self.environ = {"REQUEST_METHOD": "GET", "maypole.suspend": self.suspend, **environ}
        self.timeouts, self.resumed = [], threading.Event()

    def suspend(self, timeout=None):
        self.timeouts.append(timeout)
        resumed = self.resumed = threading.Event()
        return resumed.set

    def parked(self, stream):
        """Iterates once, and returns whether the stream is parked then."""
        before = len(self.timeouts)
        assert next(stream) == b""
        return len(self.timeouts) == before + 1 and not self.resumed.is_set()


def read(stream):
    """Returns what the stream has now."""
    found = b""
    while block := next(stream, b""):
        found += block
    return found


def events(stream):
    """Returns the data of the events that the stream has now."""
    return [line[6:].decode() for line in read(stream).split(b"\n") if line.startswith(b"data: ")]


# --- the format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, block", [
    (("hello",), b"data: hello\n\n"),
    (("",), b"data: \n\n"),
    ((" two spaces",), b"data:  two spaces\n\n"),
    (("a\nb\r\nc\rd\n",), b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
    (("a\r\rb",), b"data: a\ndata: \ndata: b\n\n"),
    (("no\x0bend\x1c\u2028of a\x85line",), "data: no\x0bend\x1c\u2028of a\x85line\n\n".encode()),
    (("NUL \0",), b"data: NUL \0\n\n"),
    (("ä", "grüße", "ü1"), "id: ü1\nevent: grüße\ndata: ä\n\n".encode()),
    (("x", "", ""), b"id: \nevent: \ndata: x\n\n"),
])  # fmt: skip
def test_event_is_encoded(arguments, block):
    assert sse.encode(*arguments) == block


@pytest.mark.parametrize("arguments, error, words", [
    (("x", "a\nb"), ValueError, r"event of an event has one line: 'a\\nb'"),
    (("x", "a\rb"), ValueError, "one line"),
    (("x", None, "1\r\n2"), ValueError, r"id of an event has one line"),
    (("x", None, "1\0"), ValueError, "has no NUL"),
    (("x", None, 7), TypeError, "id of an event is a str, not int"),
    (({"a": 1},), TypeError, "data of an event is a str, not dict: json.dumps makes one"),
    ((b"x",), TypeError, "not bytes"),
    (("\ud800",), ValueError, "surrogates not allowed"),
])  # fmt: skip
def test_event_that_would_break_the_stream_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        sse.encode(*arguments)


def test_comment_has_a_colon_before_each_line():
    assert sse.comment("a\ndata: b") == b": a\n: data: b\n\n"


# --- a stream -------------------------------------------------------------------------------------------------------


def test_first_block_opens_the_stream_and_then_it_waits():
    rest = Rest()
    stream = sse.EventStream(rest.environ, heartbeat="10s")
    assert next(stream) == b":\n\n"
    assert rest.parked(stream)
    assert 7 < rest.timeouts[0] <= 10


def test_retry_is_sent_in_milliseconds_first():
    assert next(sse.EventStream(Rest().environ, retry="1.5s")) == b"retry: 1500\n\n"


def test_send_resumes_a_stream_and_events_come_in_one_block():
    rest = Rest()
    stream = sse.EventStream(rest.environ)
    read(stream)
    resumed = rest.resumed
    assert stream.send("a") and stream.send("b", "note", "7")
    assert resumed.is_set()
    assert next(stream) == b"data: a\n\nid: 7\nevent: note\ndata: b\n\n"
    assert rest.parked(stream)


def test_send_before_the_empty_block_arrives_resumes_too():
    rest = Rest()
    stream = sse.EventStream(rest.environ)
    next(stream)
    assert next(stream) == b"" and not rest.resumed.is_set()
    stream.send("a")
    assert rest.resumed.is_set()
    assert next(stream) == b"data: a\n\n"


def test_heartbeat_follows_the_time_out():
    rest = Rest()
    stream = sse.EventStream(rest.environ, heartbeat="1s")
    next(stream)
    assert rest.parked(stream)
    # The server iterates again when the time is over.
    rest.resumed.wait(rest.timeouts[-1])
    assert next(stream) == b":\n\n"


def test_heartbeats_of_many_streams_are_spread():
    """After a broadcast, all of them would be due at once."""
    rests = [Rest() for _ in range(200)]
    for rest in rests:
        stream = sse.EventStream(rest.environ, heartbeat="100s")
        read(stream)
    times = sorted(rest.timeouts[0] for rest in rests)
    assert 74 < times[0] < 80 and 95 < times[-1] <= 100


@pytest.mark.parametrize("heartbeat", [None, 0])
def test_without_heartbeat_the_wait_has_no_end(heartbeat):
    rest = Rest()
    stream = sse.EventStream(rest.environ, heartbeat=heartbeat)
    next(stream)
    assert rest.parked(stream)
    assert rest.timeouts == [None]


def test_close_ends_the_stream_after_the_events_that_wait():
    rest = Rest()
    closed = []
    stream = sse.EventStream(rest.environ, on_close=lambda: closed.append(1))
    read(stream)
    resumed = rest.resumed
    stream.send("last")
    stream.close()
    stream.close()
    assert resumed.is_set() and closed == [1] and stream.closed
    assert not stream.send("too late")
    assert list(stream) == [b"data: last\n\n"]


def test_full_stream_closes_or_drops_the_oldest():
    rest, closed = Rest(), []
    stream = sse.EventStream(rest.environ, max_waiting=2, on_close=lambda: closed.append(1))
    next(stream)
    assert [stream.send(data) for data in "abc"] == [True, True, False]
    assert (stream.closed, stream.dropped, closed) == (True, 1, [1])
    assert list(stream) == [b"data: a\n\ndata: b\n\n"]

    stream = sse.EventStream(rest.environ, max_waiting=2, overflow="drop-oldest")
    next(stream)
    assert [stream.send(data) for data in "abc"] == [True, True, True]
    assert (stream.closed, stream.dropped) == (False, 1)
    assert next(stream) == b"data: b\n\ndata: c\n\n"


class Kept(Rest):
    """A server below a middleware that keeps empty blocks: the next suspension waits for the end of the last one."""

    holds, client_has_left = threading.Event(), False

    def suspend(self, timeout=None):
        if self.timeouts and not self.resumed.is_set():
            self.holds.set()
            self.resumed.wait(PATIENCE)
            if self.client_has_left:
                raise BrokenPipeError
        return super().suspend(timeout)


@pytest.mark.parametrize("leaves", [False, True])
def test_middleware_that_keeps_empty_blocks_makes_the_thread_wait(leaves):
    kept = Kept()
    kept.holds = threading.Event()
    stream = sse.EventStream(kept.environ, heartbeat=None)
    next(stream)
    found = []
    # Such a middleware iterates until there is something.
    thread = threading.Thread(target=lambda: found.extend(block for block in stream if block))
    thread.start()
    for data in "ab":
        assert kept.holds.wait(PATIENCE)
        kept.holds.clear()
        stream.send(data)
    assert kept.holds.wait(PATIENCE)
    kept.client_has_left = leaves
    if leaves:
        kept.resumed.set()
    else:
        stream.close()
    thread.join(PATIENCE)
    assert found == [b"data: a\n\n", b"data: b\n\n"]
    assert stream.closed


def test_without_suspension_the_thread_waits():
    stream = sse.EventStream({"REQUEST_METHOD": "GET"}, heartbeat=None)
    next(stream)
    found = []
    thread = threading.Thread(target=lambda: found.extend(stream))
    thread.start()
    stream.send("a")
    stream.close()
    thread.join(PATIENCE)
    assert b"".join(found) == b"data: a\n\n"
    assert next(sse.EventStream({}, heartbeat="10ms")) == b":\n\n"


def test_head_has_no_stream():
    stream = sse.EventStream(Rest(REQUEST_METHOD="HEAD").environ)
    assert stream.closed and not stream.send("a")


@pytest.mark.parametrize("environ, otherwise, id", [
    ({}, None, None), ({}, "7", "7"), ({"HTTP_LAST_EVENT_ID": "9"}, "7", "9"), ({"HTTP_LAST_EVENT_ID": ""}, "7", "7"),
    ({"HTTP_LAST_EVENT_ID": "ü".encode().decode("latin-1")}, None, "ü"), ({"HTTP_LAST_EVENT_ID": "\xff"}, None, "\ufffd"),
])  # fmt: skip
def test_last_event_id_is_that_of_the_browser(environ, otherwise, id):
    assert sse.EventStream(environ, last_event_id=otherwise).last_event_id == id


@pytest.mark.parametrize("options, words", [
    ({"heartbeat": "often"}, "invalid value 'often' for heartbeat: expected a duration such as 75, '1.5s'"),
    ({"heartbeat": -1}, "invalid value -1 for heartbeat"),
    ({"heartbeat": "25d"}, "at most 24 days"),
    ({"heartbeat": float("nan")}, "invalid value nan"),
    ({"retry": True}, "invalid value True for retry"),
    ({"max_waiting": 0}, "invalid value 0 for max_waiting: expected at least 1"),
    ({"overflow": "drop"}, "invalid value 'drop' for overflow: expected one of close, drop-oldest"),
])  # fmt: skip
def test_wrong_value_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        sse.EventStream({}, **options)


def test_something_else_than_a_request_is_refused():
    with pytest.raises(TypeError, match="expected a WSGI environ, or a request that has one, not str"):
        sse.EventStream("GET /")
    with pytest.raises(TypeError, match="return stream"):
        sse.EventStream({}).response()


# --- responses of frameworks ----------------------------------------------------------------------------------------


def framework_request(name):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_NAME": "a", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    if name == "django":
        from django.conf import settings
        from django.core.handlers.wsgi import WSGIRequest

        if not settings.configured:
            settings.configure()
        return WSGIRequest({**environ, "wsgi.input": __import__("io").BytesIO()})
    if name == "werkzeug":
        return __import__("werkzeug").Request(environ)
    return __import__(name + ".request", fromlist=["Request"]).Request(environ)


@pytest.mark.parametrize("name", ["django", "werkzeug", "webob", "pyramid"])
def test_response_is_of_the_framework_of_the_request(name):
    pytest.importorskip(name)
    stream = sse.EventStream(framework_request(name), heartbeat=None)
    response = stream.response()
    assert type(response).__module__.partition(".")[0] == name
    fields = dict(response.headers.items())
    assert fields["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (fields["Cache-Control"], fields["X-Accel-Buffering"]) == ("no-store, no-transform", "no")
    assert "Content-Length" not in fields
    stream.close()


def test_response_of_flask_is_that_of_its_application():
    flask = pytest.importorskip("flask")

    class Own(flask.Response):
        pass

    app = flask.Flask("shop")
    app.response_class = Own
    with app.test_request_context("/", headers={"Last-Event-ID": "7"}):
        stream = sse.EventStream(flask.request)
        response = stream.response()
    assert type(response) is Own and response.mimetype == "text/event-stream"
    assert stream.last_event_id == "7"
    stream.close()
    assert b"".join(response.response) == b":\n\n"


# --- a broadcast ----------------------------------------------------------------------------------------------------


def last_id(stream):
    return read(stream).rpartition(b"id: ")[2].partition(b"\n")[0].decode()


def test_event_goes_to_the_subscribers_of_its_topic():
    broadcast = sse.Broadcast()
    news, both = broadcast.subscribe(Rest().environ, "news"), broadcast.subscribe(Rest().environ, "news", "sport")
    broadcast.send("sport", "goal")
    broadcast.send("news", "rain")
    broadcast.send("other", "nothing")
    assert (events(news), events(both)) == (["rain"], ["goal", "rain"])
    assert (broadcast.subscribers("news"), broadcast.subscribers("sport"), broadcast.subscribers("x")) == (2, 1, 0)


def test_subscriber_that_closes_or_is_dropped_is_gone():
    broadcast, closed = sse.Broadcast(), []
    one, two = (broadcast.subscribe(Rest().environ, "news", on_close=lambda: closed.append(1)) for _ in range(2))
    one.close()
    assert (broadcast.subscribers("news"), closed) == (1, [1])
    dropped = weakref.ref(two)
    del two
    gc.collect()
    assert dropped() is None and broadcast.subscribers("news") == 0
    broadcast.send("news", "rain")


def test_stream_that_the_interpreter_closes_meanwhile_takes_no_topic_with_it(monkeypatch):
    broadcast = sse.Broadcast()
    old = broadcast.subscribe(Rest().environ, "news")

    def ref(stream, *forget):
        # A finalizer can run between any two steps.
        if forget:
            old.close()
        return weakref.ref(stream, *forget)

    monkeypatch.setattr(sys.modules[sse.Broadcast.__module__], "weakref", types.SimpleNamespace(ref=ref))
    new = broadcast.subscribe(Rest().environ, "news")
    broadcast.send("news", "rain")
    assert (old.closed, broadcast.subscribers("news"), events(new)) == (True, 1, ["rain"])


def test_full_subscriber_is_closed_and_the_others_go_on():
    broadcast, closed = sse.Broadcast(max_waiting=2), []
    slow = broadcast.subscribe(Rest().environ, "news", on_close=lambda: closed.append(1))
    quick = broadcast.subscribe(Rest().environ, "news")
    next(slow)
    for data in "abc":
        broadcast.send("news", data)
        read(quick)
    assert (slow.closed, quick.closed, broadcast.subscribers("news"), closed) == (True, False, 1, [1])
    assert events(slow) == ["a", "b"]


def test_client_that_comes_again_gets_what_it_has_missed():
    broadcast = sse.Broadcast()
    stream = broadcast.subscribe(Rest().environ, "news", "sport")
    broadcast.send("news", "a")
    seen = last_id(stream)
    stream.close()
    broadcast.send("sport", "b")
    broadcast.send("news", "c")
    broadcast.send("other", "d")
    stream = broadcast.subscribe(Rest(HTTP_LAST_EVENT_ID=seen).environ, "news", "sport")
    assert (events(stream), stream.missed) == (["b", "c"], False)
    broadcast.send("news", "e")
    assert events(stream) == ["e"]


def test_history_that_is_too_short_says_so():
    broadcast = sse.Broadcast(history=2)
    first = broadcast.send("news", "a")
    for data in "bcd":
        broadcast.send("news", data)
    stream = broadcast.subscribe(Rest().environ, "news", last_event_id=first)
    assert (events(stream), stream.missed) == (["c", "d"], True)
    # An id of another process, or of one before a restart.
    stream = broadcast.subscribe(Rest().environ, "news", last_event_id="0123-4")
    assert (events(stream), stream.missed) == (["c", "d"], True)
    assert sse.Broadcast().send("news", "a") != first


def test_topics_without_subscribers_are_bounded():
    broadcast = sse.Broadcast(max_topics=8)
    stream = broadcast.subscribe(Rest().environ, "topic 0")
    seen = broadcast.send("topic 0", "a")
    lost = broadcast.send("topic 1", "a")
    for number in range(2, 100):
        broadcast.send(f"topic {number}", "a")
    assert len(broadcast._topics) <= 12
    assert broadcast.subscribers("topic 0") == 1 and not stream.closed
    assert broadcast.subscribe(Rest().environ, "topic 1", last_event_id=lost).missed
    assert not broadcast.subscribe(Rest().environ, "topic 0", last_event_id=seen).missed


class Table:
    """A table of a database with numbered rows."""

    def __init__(self, rows):
        self.rows, self.asked, self.meanwhile = rows, [], lambda: None

    def older(self, topics, id):
        self.asked.append((topics, id))
        found = [sse.Message(str(row), id=str(row)) for row in range(int(id) + 1, self.rows + 1)]
        self.meanwhile()
        return found


def test_older_events_come_from_the_database_once_and_in_order():
    table = Table(5)
    broadcast = sse.Broadcast(order=int, older=table.older)

    def meanwhile():
        # Another process has written row 5, and this one hears of it now; then of 6.
        for row in (5, 6):
            broadcast.send("news", str(row), id=str(row))

    table.meanwhile = meanwhile
    stream = broadcast.subscribe(Rest().environ, "news", last_event_id="2")
    assert (events(stream), stream.missed, table.asked) == (["3", "4", "5", "6"], False, [(("news",), "2")])
    broadcast.send("news", "7", id="7")
    assert events(stream) == ["7"]
    # Now memory reaches back far enough.
    stream = broadcast.subscribe(Rest().environ, "news", last_event_id="5")
    assert (events(stream), len(table.asked)) == (["6", "7"], 1)


def test_process_that_lags_behind_sends_nothing_twice():
    broadcast = sse.Broadcast(order=int, older=Table(7).older)
    for row in range(1, 5):
        broadcast.send("news", str(row), id=str(row))
    # The client has seen 6 at another process.
    stream = broadcast.subscribe(Rest().environ, "news", last_event_id="6")
    for row in range(5, 9):
        broadcast.send("news", str(row), id=str(row))
    assert events(stream) == ["7", "8"]


def test_id_that_is_none_is_not_looked_up():
    table = Table(5)
    broadcast = sse.Broadcast(order=int, older=table.older)
    stream = broadcast.subscribe(Rest().environ, "news", last_event_id="1; DROP TABLE")
    assert (events(stream), stream.missed, table.asked) == ([], True, [])
    with pytest.raises(ValueError, match="invalid literal"):
        broadcast.send("news", "a", id="x")
    with pytest.raises(ValueError, match="an event needs an id"):
        broadcast.send("news", "a")
    with pytest.raises(ValueError, match="older needs order"):
        sse.Broadcast(older=table.older)


def test_failure_of_older_leaves_no_subscriber():
    def older(topics, id):
        raise OSError("the database is away")

    broadcast = sse.Broadcast(order=int, older=older)
    with pytest.raises(OSError, match="away"):
        broadcast.subscribe(Rest().environ, "news", last_event_id="2")
    assert broadcast.subscribers("news") == 0


def test_close_ends_all_streams():
    broadcast = sse.Broadcast()
    streams = [broadcast.subscribe(Rest().environ, topic) for topic in ("a", "b")]
    broadcast.close()
    assert [list(stream) for stream in streams] == [[b":\n\n"], [b":\n\n"]]


def test_many_senders_at_once_keep_one_order():
    broadcast = sse.Broadcast(history=10_000, max_waiting=10_000)
    streams = [broadcast.subscribe(Rest().environ, "news") for _ in range(5)]

    def send(name):
        for number in range(500):
            broadcast.send("news", f"{name} {number}")

    threads = [threading.Thread(target=send, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    first, *others = map(events, streams)
    assert len(first) == 2000 and all(other == first for other in others)
    late = broadcast.subscribe(Rest().environ, "news", last_event_id="unknown")
    assert events(late) == first
