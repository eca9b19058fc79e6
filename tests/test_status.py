"""What a server shows of itself: probes, metrics and numbers, also while Python is stuck."""

import shutil
import signal
import subprocess
import time

import pytest

from process import eventually
from status import Status

def seconds_of(status, path):
    """Returns how long a response takes. On a busy machine only the shortest of many times counts."""
    began = time.monotonic()
    assert status.text(path)[0] == 200
    return time.monotonic() - began


KINDS = pytest.mark.parametrize("kind", [(), ("-w", "2")], ids=["alone", "workers"])


@pytest.fixture
def shown(server):
    """Starts a server that shows its status. Gives the server and the status."""

    def start(app, *options, **more):
        running = server(app, "--status-bind", "0", *options, **more)
        return running, Status(running)

    return start


@KINDS
def test_numbers_of_requests_are_shown(shown, kind):
    running, status = shown("probe", *kind)
    before = status.json()["total"]["requests"]
    for _ in range(5):
        assert running.get().status == 200
    assert running.get("/nothing").status == 404
    # A request is counted once its response has been sent.
    eventually(lambda: status.json()["total"]["requests"] >= before + 6, what="the count of the requests")
    counted = status.json()
    assert counted["total"]["requests"] - before == 6
    assert (counted["total"]["classes"]["2xx"], counted["total"]["classes"]["4xx"]) == (5, 1)
    assert counted["stage"] == "serving" and counted["has_workers"] == bool(kind)
    assert [process["number"] for process in counted["processes"]] == ([1, 2] if kind else [1])
    assert status.metric('maypole_requests_total{method="GET",status_class="2xx"}') == 5
    assert status.metric('http_server_request_duration_seconds_count{status_class="4xx"}') == 1
    assert status.metric('maypole_request_phase_duration_seconds_count{phase="application"}') == 6


def test_counts_of_a_worker_that_has_ended_stay_in_the_sum(shown):
    running, status = shown("probe", "-w", "1")
    for _ in range(3):
        assert running.get().status == 200
    start = len(running.err.text())
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 1 worker with the new settings", start=start)
    assert running.get().status == 200
    eventually(lambda: len(status.json()["processes"]) == 1, what="the end of the old worker")
    eventually(lambda: status.json()["total"]["requests"] >= 4, what="the count of the requests")
    assert status.json()["total"]["requests"] == 4
    assert status.metric('maypole_requests_total{method="GET",status_class="2xx"}') == 4


@KINDS
def test_status_answers_while_python_is_stuck(shown, kind):
    running, status = shown("keeps_gil", "--worker-timeout", "0", *kind)
    with running.client() as client, running.client() as other:
        for stuck in (client, other):
            stuck.send(b"GET /keep HTTP/1.1\r\nHost: a\r\n\r\n")
            eventually(lambda: any(one["stuck_seconds"] for one in status.json()["processes"]), what="a stuck process")
        processes = status.json()["processes"]
        assert all(one["stuck_seconds"] for one in processes) or kind
        assert status.text("/livez") == (200, "alive\n")
        assert 'maypole_stuck{worker="1"}' in status.text("/metrics")[1]
        assert "GET /keep HTTP/1.1" in status.text("/requests.json")[1]
        for path in ("/livez", "/metrics", "/requests.json", "/errors.json", "/"):
            eventually(lambda path=path: seconds_of(status, path) < 0.05, what=f"a quick answer of {path}")
        if not kind:
            assert status.text("/readyz")[0] == 503 and "no process has run Python" in status.text("/readyz")[1]
        running.kill()


def test_process_that_is_stuck_for_too_long_is_not_alive(shown):
    running, status = shown("keeps_gil", "--worker-timeout", "2s")
    with running.client() as client:
        client.send(b"GET /keep HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: status.text("/livez")[0] == 503, what="a probe that fails")
        assert "(--worker-timeout)" in status.text("/livez")[1]
        running.kill()


@pytest.mark.parametrize("kind", [(), ("-w", "1")], ids=["alone", "worker"])
def test_readiness_follows_the_service(shown, kind):
    running, status = shown("probe", *kind)
    assert status.text("/readyz") == (200, "ready: 1 of 1 process can take requests\n")
    with running.client() as client:
        client.send(b"GET /hold/a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert running.get("/held/a").body == b"yes"
        running.signal(signal.SIGTERM)
        running.err.wait("SIGTERM: stopping")
        eventually(lambda: status.text("/readyz") == (503, "draining: the service stops\n"), what="the stop")
        running.kill()


def test_only_reads_and_only_from_this_machine(shown):
    _, status = shown("probe")
    assert status.ask("/reload", method="POST").status == 405
    assert status.ask("/livez", method="HEAD").body == b""
    assert status.ask("/livez", fields={"Host": "shop.example"}).status == 421
    assert status.ask("/nothing").status == 404
    assert status.ask("/livez").get("Cache-Control") == "no-store"


def test_status_is_refused_to_other_networks(server):
    running = server("probe", "--status-bind", "0.0.0.0:0", "--status-allow", "10.0.0.0/8")
    assert Status(running).ask("/livez").status == 403


def test_refusals_are_counted_by_reason(shown):
    running, status = shown("probe", "--max-body-size", "10", "--limit-request-fields", "5")
    refused = {
        "malformed": b"GET / HTTP/1.1\r\n\r\n",
        "max_body_size": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
        "limit_request_fields": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 5 + b"\r\n",
    }
    for reason, request in refused.items():
        with running.client() as client:
            assert client.send(request).response().status >= 400
        assert status.metric(f'maypole_requests_refused_total{{reason="{reason}"}}') == 1
    assert status.metric('maypole_requests_refused_total{reason="header_timeout"}') == 0


def test_parser_of_prometheus_reads_both_formats(shown):
    prometheus = pytest.importorskip("prometheus_client.parser")
    openmetrics = pytest.importorskip("prometheus_client.openmetrics.parser")
    running, status = shown("probe", "-w", "2")
    assert running.get().status == 200
    families = {one.name: one for one in prometheus.text_string_to_metric_families(status.text("/metrics")[1])}
    open_text = status.ask("/metrics", fields={"Accept": "application/openmetrics-text"}).body.decode()
    open_families = list(openmetrics.text_string_to_metric_families(open_text))
    names = [{sample.name for one in kind for sample in one.samples} for kind in (families.values(), open_families)]
    assert names[0] == names[1] and "http_server_request_duration_seconds_bucket" in names[0]
    assert families["maypole_requests_refused"].type == "counter"
    assert {one.labels["worker"] for one in families["maypole_connections"].samples} == {"1", "2"}


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool on this machine")
def test_promtool_has_no_complaint(shown):
    running, status = shown("probe", "-w", "2")
    assert running.get().status == 200
    text = status.ask("/metrics").body
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")
