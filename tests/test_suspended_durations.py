"""The time for which a response is suspended is no part of the durations that operators watch."""

import json
import re

import pytest

from http2 import Http2Client
from process import eventually
from status import Status
from test_suspended import chunk, fire

OPTIONS = ("--access-logfile", "-", "--access-logformat", "json", "--status-bind", "127.0.0.1:0")
#: How long a response is suspended, in seconds. What runs of it takes less, also on a busy machine.
TIME = 1.2


def line(server, path):
    """Returns the access log's line of a path."""
    return json.loads(server.out.wait(rf'(?m)^(\{{.*"path":"{path}".*\}})$')[1])


def check(server, path):
    """Checks that the numbers of the only request with this path, which was suspended, fit together."""
    said = line(server, path)
    parts = sum(said[f"{part}_us"] for part in ("receive", "queue", "application", "send"))
    assert said["suspended_us"] >= TIME * 1e6
    # Each part is rounded down.
    assert parts <= said["duration_us"] - said["suspended_us"] <= parts + 5
    return said


def sums(status):
    """Returns the sums of the metrics, in microseconds: whole requests, the phase application, suspended."""
    text = status.text("/metrics")[1]
    whole = sum(float(value) for value in re.findall(r"^http_server_request_duration_seconds_sum\S* (\S+)$", text, re.M))
    application = re.search(r'^maypole_request_phase_duration_seconds_sum\{phase="application"\} (\S+)$', text, re.M)
    suspended = re.search(r"^maypole_response_suspended_duration_seconds_sum (\S+)$", text, re.M)
    return [1e6 * value for value in (whole, float(application[1]), float(suspended[1]))]


@pytest.fixture
def timed(server):
    return server("suspending", *OPTIONS)


def http1(server, path):
    assert server.get(path).body == b"passed"


def http2(server, path):
    with Http2Client(server) as client:
        assert client.response(client.request(path)).body == b"passed"


@pytest.mark.parametrize("get, more", [(http1, []), (http2, []), (http1, ["--max-suspended", "0"])], ids=["http1", "http2", "held"])
def test_time_of_a_suspension_is_apart_from_the_other_times(server, get, more):
    running = server("suspending", *OPTIONS, *more, "--slow-request", f"{TIME:.1f}s")
    get(running, f"/timed?{TIME}")
    said = check(running, "/timed")
    expected = [said["duration_us"] - said["suspended_us"], said["application_us"], said["suspended_us"]]

    def are_counted():
        return all(abs(number - wanted) < 10 for number, wanted in zip(sums(Status(running)), expected))

    eventually(are_counted, what=f"the sums {expected}")
    # The time of an event is not slow. What runs of the request may be, on a busy machine.
    assert all(row["duration_seconds"] < TIME for row in Status(running).json("/requests.json?slowest")["slowest"])
    running.stop()
    assert "--slow-request" not in running.err.text()


def test_quantiles_of_a_service_with_streams_are_those_of_its_other_requests(timed):
    for _ in range(5):
        assert timed.get(f"/timed?{TIME}").body == b"passed"
    recent = Status(timed).json()["recent"]
    # All of them were suspended for longer.
    assert recent["duration"]["p50"] < TIME and recent["phases"]["application"]["p50"] < TIME


def test_suspension_that_ends_with_its_client_counts(timed):
    with timed.client() as client:
        client.request("GET /events?leaves HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        assert timed.get(f"/timed?{TIME}").body == b"passed"
    assert check(timed, "/events")["complete"] is False


def test_several_suspensions_of_a_response_add_up(timed):
    with timed.client() as client:
        client.request("GET /events?several HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        for number in range(3):
            assert timed.get(f"/timed?{TIME / 3 + 0.01}").body == b"passed"
            assert fire(timed, "several") == 1
            assert chunk(client) == b"%d\n" % number
        assert chunk(client) == b""
    check(timed, "/events")
    eventually(lambda: Status(timed).metric("maypole_response_suspended_duration_seconds_count") >= 4, what="the count")


def test_response_that_was_not_suspended_has_no_such_time(timed):
    assert timed.get("/plain").body == b"plain"
    assert line(timed, "/plain")["suspended_us"] == 0
    assert sums(Status(timed))[2] == 0
