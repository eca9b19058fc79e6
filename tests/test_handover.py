"""Connections that stay open while workers are replaced: they move from an old worker to a new one."""

import contextlib
import json
import os
import signal
import threading

import pytest

from client import Client
from process import eventually, halt
from test_proxy_protocol import PROXIED, v1
from test_workers import serving, workers

#: No deadline ends a request that is held up over a reload.
PATIENT = ("--header-timeout", "10m", "--body-timeout", "10m", "--write-timeout", "10m", "--min-rate", "0")

HANDED_OVER = r"pid {} has handed over (\d+) connections?, and closed (\d+)"


def reload(running):
    """Replaces all workers, and waits until the old ones have ended. Returns the processes of the new ones."""
    start, old = len(running.err.text()), workers(running)
    running.signal(signal.SIGHUP)
    running.err.wait(r"reloaded: \d+ worker", start=start)
    eventually(lambda: not set(old) & set(workers(running)), what="the end of the old workers")
    return serving(running, start)


def idle_clients(running, count, stack, first=b""):
    """Connects clients. Each has had a response."""
    clients = [stack.enter_context(Client(running.address)) for _ in range(count)]
    for client in clients:
        assert client.send(first).get().status == 200
    return clients


def pid_of(client):
    """Returns the process that serves a client."""
    response = client.get("/pid")
    assert response.get("Connection") != "close"
    return int(response.body)


@pytest.fixture(params=["tcp", "unix"])
def pair(request, server, tmp_path):
    """Starts two workers."""
    if request.param == "unix":
        return server("probe", "-w", "2", "--log-level", "debug", *PATIENT, "--bind", f"unix:{tmp_path}/socket", bind=False)
    return server("probe", "-w", "2", "--log-level", "debug", *PATIENT)


def test_reload_closes_no_client_whatever_it_is_doing(pair):
    """Each kind of client has a connection to a worker that is replaced twice."""
    with contextlib.ExitStack() as stack:
        idle = idle_clients(pair, 6, stack)
        silent, slow, uploads, reads, pipelines = (stack.enter_context(Client(pair.address)) for _ in range(5))
        slow.send("GET /pid HT")
        uploads.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        reads.send("GET /big?n=8000000 HTTP/1.1\r\nHost: h\r\n\r\n").head()
        pipelines.send("GET /sleep?s=0.5 HTTP/1.1\r\nHost: h\r\n\r\nGET /pid HTTP/1.1\r\nHost: h\r\n\r\nGET /echo HT")
        finished = threading.Thread(target=lambda: (uploads.send("def"), reads.read_exactly(8000000)))
        start = len(pair.err.text())
        pair.signal(signal.SIGHUP)
        # The first worker stops: its slow clients now go on.
        pair.err.wait("SIGHUP: stopping", start=start)
        finished.start()
        pair.err.wait(r"reloaded: 2 workers", start=start)
        new = set(serving(pair, start).values())
        # Neither a part of a head nor a client that pipelines holds an old worker up.
        eventually(lambda: set(workers(pair)) == new, what="the end of the old workers")
        finished.join()
        assert uploads.response().body == b"abcdef"
        slow.send("TP/1.1\r\nHost: h\r\n\r\n")
        pipelines.send("TP/1.1\r\nHost: h\r\n\r\n")
        assert int(slow.response().body) in new
        assert [pipelines.response().body for _ in range(3)][::2] == [b"slept", b""]
        newest = set(reload(pair).values())
        assert {pid_of(client) for client in [*idle, silent, slow, uploads, reads, pipelines]} <= newest


def test_clients_of_a_worker_that_goes_for_good_move_to_the_others(server):
    running = server("probe", "-w", "3")
    with contextlib.ExitStack() as stack:
        clients = idle_clients(running, 24, stack)
        before = [pid_of(client) for client in clients]
        assert len(set(before)) == 3
        gone = serving(running)[3]
        running.signal(signal.SIGTTOU)
        running.err.wait(HANDED_OVER.format(gone))
        eventually(lambda: gone not in workers(running), what="its end")
        after = [pid_of(client) for client in clients]
        assert all(pid == old for pid, old in zip(after, before) if old != gone)
        assert {pid for pid, old in zip(after, before) if old == gone} == set(after)


def test_death_of_the_worker_that_gets_the_clients_costs_no_connection(server):
    """The worker that stops finds its only receiver dead before the supervisor does."""
    running = server("probe", "-w", "2", *PATIENT)
    with Client(running.address) as client:
        old = pid_of(client)
        number, = (number for number, pid in serving(running).items() if pid == old)
        client.request("POST /echo HTTP/1.1", "Content-Length: 6", "Expect: 100-continue")
        # The request is being served.
        assert client.head().status == 100
        start = len(running.err.text())
        running.signal(signal.SIGHUP)
        running.err.wait(r"reloaded: 2 workers", start=start)
        new = serving(running, start)
        halt(running.pid)
        os.kill(new.pop(number), signal.SIGKILL)
        response = client.send("abcdef").response()
        assert (response.body, response.get("Connection")) == (b"abcdef", None)
        running.err.wait("connections (stay|cannot be handed over)", start=start)
        running.signal(signal.SIGCONT)
        eventually(lambda: old not in workers(running), what="the end of the old worker")
        assert pid_of(client) in {*new.values(), *serving(running, start).values()}


def test_address_that_a_proxy_has_told_moves_with_the_connection(server):
    running = server("probe", "-w", "1", *PATIENT, "--proxy-protocol", "auto")
    with contextlib.ExitStack() as stack:
        served, = idle_clients(running, 1, stack, first=v1())
        silent, told = (stack.enter_context(Client(running.address)) for _ in range(2))
        told.send(v1())
        reload(running)
        silent.send(v1())
        for client in served, silent, told:
            environ = json.loads(client.get("/environ").body)["environ"]
            assert (environ["REMOTE_ADDR"], environ["SERVER_PORT"]) == (PROXIED, str(running.port))


def ask(running, over, pipelined):
    """Sends requests without a pause on one connection. Returns how many."""
    sent = 0
    with Client(running.address) as client:
        while not over.is_set():
            for number in range(pipelined):
                client.request(f"POST /echo?{sent + number} HTTP/1.1", "Content-Length: 7", body=b"%07d" % (sent + number))
            for _ in range(pipelined):
                response = client.response()
                assert (response.status, response.body, response.get("Connection")) == (200, b"%07d" % sent, None)
                sent += 1
    return sent


@contextlib.contextmanager
def busy_clients(running, least):
    """Has clients send without a pause, some of them pipelined. At the end, each has had more than `least` responses."""
    over, results = threading.Event(), []

    def run(pipelined):
        try:
            results.append(ask(running, over, pipelined))
        except BaseException as error:
            results.append(error)
            raise

    threads = [threading.Thread(target=run, args=(pipelined,)) for pipelined in (1, 1, 3, 16)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert all(isinstance(result, int) and result > least for result in results), results


@pytest.mark.parametrize("reloads", [5])
def test_busy_clients_lose_no_request_and_no_connection_by_reloads(server, reloads):
    running = server("probe", "-w", "2")
    with busy_clients(running, least=reloads):
        for _ in range(reloads):
            reload(running)
