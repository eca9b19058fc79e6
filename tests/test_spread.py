"""Connections are spread over workers evenly: read from the scoreboard, which workers write."""

import contextlib

import pytest

from process import all_descriptors, eventually
from scoreboard import Scoreboard

WORKERS = 4


@pytest.fixture(scope="module", params=["tcp", "unix"])
def service(request, module_server, tmp_path_factory):
    """A service with its scoreboard."""
    all_descriptors()
    unix = f"unix:{tmp_path_factory.mktemp('spread') / 's'}"
    running = module_server("probe", "-w", WORKERS, "--bind", "127.0.0.1:0" if request.param == "tcp" else unix)
    running.scoreboard = Scoreboard.of(running.pid)
    return running


def connections(service):
    """Returns how many connections each worker has."""
    return [slot["connections"] for slot in service.scoreboard.serving()]


def burst(service, clients, count):
    for _ in range(count):
        clients.enter_context(service.client())


def one_by_one(service, clients, count):
    for _ in range(count):
        assert clients.enter_context(service.client()).get("/").status == 200


def busy(service, clients, count):
    """All connect while the requests of the earlier ones compute."""
    waiting = []
    for _ in range(count):
        waiting.append(clients.enter_context(service.client()))
        waiting[-1].request("GET /compute?s=0.001 HTTP/1.1")
    for client in waiting:
        assert client.response().status == 200


@pytest.mark.parametrize("arrive", [burst, one_by_one, busy])
@pytest.mark.parametrize("count", [16, 64, 1000])
def test_no_worker_has_more_than_its_share(service, count, arrive):
    with contextlib.ExitStack() as clients:
        arrive(service, clients, count)
        # The kernel has a connection before a worker accepts it.
        each = eventually(lambda: sum(each := connections(service)) == count and each, what="the last accept")
    assert len(each) == WORKERS
    assert max(each) <= max(1.3 * count / WORKERS, count / WORKERS + 1), each
    eventually(lambda: not any(connections(service)), what="the last close")
