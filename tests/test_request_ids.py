"""`--request-id-header`: an id for each request, for the application, the response and the logs."""

import json
import re
import time

import pytest

from process import eventually
from status import Status
from test_proxy_protocol import v1

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def identified(module_server):
    return module_server(
        "probe", "--request-id-header", "X-Request-ID", "--access-logfile", "-", "--access-logformat",
        "%(U)s %(s)s %(request_id)s %(trace_id)s", "--max-body-size", "10", "--status-bind", "0",
    )


def ids(response):
    """Returns the request's id in the response, and in the two variables of the environ."""
    environ = json.loads(response.body)["environ"]
    return response.get("x-request-id"), environ["maypole.request_id"], environ["HTTP_X_REQUEST_ID"]


def test_id_of_a_proxy_on_this_machine_is_kept(identified):
    with identified.client() as client:
        response = client.get("/environ/kept", "X-Request-ID: from.proxy/7", f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01")
        assert ids(response) == ("from.proxy/7",) * 3
        assert json.loads(response.body)["environ"]["HTTP_TRACEPARENT"] == f"00-{TRACE}-00f067aa0ba902b7-01"
    identified.out.wait(rf"/environ/kept 200 from\.proxy/7 {TRACE}\n")


@pytest.mark.parametrize("fields", [[], ["X-Request-ID:"], ["X-Request-ID: a b"], ["X-Request-ID: " + "x" * 129]])
def test_request_without_a_good_id_gets_a_new_one(identified, fields):
    with identified.client() as client:
        first, second = (ids(client.get("/environ/made", *fields)) for _ in range(2))
    assert len({*first}) == len({*second}) == 1 and UUID.fullmatch(first[0]), first
    assert first[0] < second[0]
    identified.out.wait(rf"/environ/made 200 {second[0]} -\n")


def test_client_that_is_no_proxy_gets_a_new_id(server):
    running = server("probe", "--request-id-header", "X-Request-ID", "--proxy-protocol", "v1")
    with running.client() as client:
        client.send(v1("192.0.2.7"))
        made = ids(client.get("/environ", "X-Request-ID: forged", "X-Request-ID: twice"))
    assert len({*made}) == 1 and UUID.fullmatch(made[0]), made
    with running.client() as client:
        client.send(v1("127.0.0.1"))
        assert ids(client.get("/environ", "X-Request-ID: local"))[0] == "local"


def test_logs_and_reports_have_the_id(identified):
    with identified.client() as client:
        assert client.get("/fail", "X-Request-ID: broken-1").get("x-request-id") == "broken-1"
    identified.err.wait(r"GET /fail HTTP/1\.1 \(request broken-1\)\nTraceback")
    with identified.client() as client:
        refused = client.request("POST /sha HTTP/1.1", "X-Request-ID: long-1", "Content-Length: 11").response("POST")
        assert (refused.status, refused.get("x-request-id")) == (413, "long-1")
    identified.err.wait(r"413: a body of 11 bytes.*, POST /sha \(request long-1\)\n")
    with identified.client() as held, identified.client() as other:
        held.request("GET /hold/id HTTP/1.1", "X-Request-ID: held-1")

        def shown():
            return [row["request_id"] for row in Status(identified).json("/requests.json")["requests"]]

        # The row of the request before it may still be there.
        eventually(lambda: shown() == ["held-1"], what="the row of one request")
        assert '"GET /hold/id HTTP/1.1"  request held-1' in Status(identified).text("/stacks")[1]
        other.get("/release/id")
        held.response()


def test_time_in_the_queue_of_a_proxy(server):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "%(U)s %(proxy_queue)s", "--status-bind", "0")
    started = time.time() - 60
    with running.client() as client:
        client.get("/none")
        for path, value in [("/seconds", f"t={started:.3f}"), ("/millis", f"{started * 1000:.0f}"), ("/wrong", "soon")]:
            client.get(path, f"X-Request-Start: {value}")
    lines = dict(line.split() for line in running.out.wait(r"(?:.*\n){4}")[0].splitlines())
    assert lines["/none"] == lines["/wrong"] == "-"
    assert all(59e6 < int(lines[path]) < 120e6 for path in ["/seconds", "/millis"]), lines
    eventually(lambda: Status(running).metric("maypole_proxy_queue_duration_seconds_count") == 2, what="the count")


def test_requests_have_no_id_without_the_setting(probe):
    with probe.client() as client:
        response = client.get("/environ", "X-Request-ID: 7")
    assert "maypole.request_id" not in json.loads(response.body)["environ"]
    assert response.get("x-request-id") is None


def test_lines_of_a_late_request_have_its_id(server):
    running = server("probe", "--request-id-header", "X-Request-ID", "--request-timeout", "300ms", "--slow-request", "200ms")
    assert running.get("/hold/late", "X-Request-ID: late-1").status == 504
    running.err.wait(r'504 after 300ms \(--request-timeout\): "GET /hold/late HTTP/1\.1" \(request late-1\) waited')
    running.err.wait(r"GET /hold/late HTTP/1\.1 \(request late-1\) of 127\.0\.0\.1:\d+, status 504, took")
    running.get("/release/late")


def test_requests_that_a_dead_worker_has_lost_are_named_by_their_ids(server):
    running = server("crashing:application", "-w", "1", "--request-id-header", "X-Request-ID")
    with running.client() as client:
        client.request("GET /SIGSEGV HTTP/1.1", "X-Request-ID: " + 64 * "a" + "b")
        running.err.wait(r"1 request was inside:\n  GET /SIGSEGV HTTP/1\.1 \(for .*, thread \d+, request a{64}\)\n")
