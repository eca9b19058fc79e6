"""Connections are spread over workers evenly: read from the scoreboard, which workers write."""

import contextlib
import signal
import time

import pytest

from process import all_descriptors, eventually
from scoreboard import Scoreboard

WORKERS = 4
# No deadline closes a connection while the test counts them.
PATIENT = ("--keep-alive", "10m", "--header-timeout", "10m")


@pytest.fixture(scope="module", params=["tcp", "unix"])
def service(request, module_server, tmp_path_factory):
    """A service with its scoreboard."""
    all_descriptors()
    unix = f"unix:{tmp_path_factory.mktemp('spread') / 's'}"
    running = module_server("probe", "-w", WORKERS, *PATIENT, "--bind", "127.0.0.1:0" if request.param == "tcp" else unix)
    running.scoreboard = Scoreboard.of(running.pid)
    return running


def connections(board):
    """Returns how many connections each worker has, by its process."""
    return {slot["pid"]: slot["connections"] for slot in board.serving()}


def accepted(board, count):
    """Waits until workers have accepted this many connections, which the kernel has before. Returns what `connections` does."""
    return eventually(lambda: sum((each := connections(board)).values()) == count and each, what="the last accept")


def most(count, workers):
    """Returns how many of `count` connections one of `workers` may have: 1.3 times its share, or one more."""
    return max(1.3 * count / workers, count / workers + 1)


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
        each = accepted(service.scoreboard, count)
    assert len(each) == WORKERS
    assert max(each.values()) <= most(count, WORKERS), each
    accepted(service.scoreboard, 0)


def pid(client):
    """Returns the worker that a client is connected to."""
    return int(client.get("/").body)


def test_worker_that_keeps_its_gil_gets_no_connection(server):
    running = server("places:keep_gil", "-w", WORKERS, "--worker-timeout", "0", *PATIENT)
    board = Scoreboard.of(running.pid)
    with contextlib.ExitStack() as clients:
        clients.enter_context(running.client()).request()

        def stuck_for(seconds):
            end = time.monotonic() * 1e6 - seconds * 1e6
            return [slot for slot in board.serving() if 0 < slot["gil_sought"] < end]

        # It counts as stuck once its thread has waited for 150 ms. Each look at the GIL seeks it for a moment.
        (stuck,) = eventually(lambda: stuck_for(0.5), what="a thread that waits for the GIL")
        for _ in range(20):
            clients.enter_context(running.client())
        each = accepted(board, 21)
        assert each.pop(stuck["pid"]) == 1, each
        assert max(each.values()) <= most(20, len(each)), each
    running.kill()


def shares(board, count, workers):
    """Waits until this many workers have their shares of the connections. They begin to move after five seconds."""

    def are_even():
        each = connections(board).values()
        return len(each) == workers and sum(each) == count and max(each) <= most(count, workers)

    eventually(are_even, what="an even spread")


def test_idle_connections_move_to_a_worker_that_is_added(server):
    all_descriptors()
    running = server("probe", "-w", "1", *PATIENT)
    board = Scoreboard.of(running.pid)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.client()) for _ in range(1000)]
        running.signal(signal.SIGTTIN)
        shares(board, 1000, 2)
        for client in clients[::7]:
            assert client.get("/").status == 200


def test_worker_that_alone_has_connections_hands_some_over(server):
    running = server("places:process", "-w", "3", *PATIENT)
    board = Scoreboard.of(running.pid)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.client()) for _ in range(9)]
        kept = pid(clients[0])
        stay = [client for client in clients if pid(client) == kept]
        assert len(stay) > 1
        for client in clients:
            if client not in stay:
                client.close()
        shares(board, len(stay), 3)
        assert len({pid(client) for client in stay}) == min(3, len(stay))
