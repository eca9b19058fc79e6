"""A worker and its link: the test is the supervisor, and sends the messages itself."""

import contextlib
import resource
import signal
import socket

import pytest

import scoreboard
from client import Closed
from linked import ready, worker  # noqa: F401 (a fixture)


def test_worker_shows_itself_in_its_slot(worker):
    started = ready(worker("probe", slot=3, generation=5))
    (slot,) = scoreboard.Scoreboard(started.scoreboard).serving()
    expected = {"pid": started.process.pid, "number": 2, "generation": 5, "connections": 0}
    assert slot | expected == slot
    with started.client() as client:
        assert client.get("/").status == 200
        (slot,) = scoreboard.Scoreboard(started.scoreboard).serving()
        assert slot["connections"] == 1


def test_worker_serves_on_the_supervisor_s_socket_until_it_is_told_to_stop(worker):
    started = ready(worker("--log-level", "debug", "probe"))
    with started.client() as client:
        assert client.get("/").status == 200
    started.send("stop", cause="SIGHUP")
    assert started.end() == 0
    text = started.process.err.text()
    assert "SIGHUP: stopping; " in text, text
    assert "listening on" not in text, text


def test_worker_stops_when_the_supervisor_has_ended(worker):
    started = ready(worker("--log-level", "debug", "probe"))
    started.link.close()
    assert started.end() == 0
    assert "the end of the supervisor: stopping" in started.process.err.text()


def test_worker_ends_at_once_when_it_is_told_to(worker):
    started = ready(worker("--log-level", "debug", "probe"))
    with started.client() as client:
        started.hold(client)
        started.send("stop", cause="SIGTERM")
        started.process.err.wait(r"SIGTERM: stopping; ")
        started.send("stop_now", cause="SIGTERM")
        assert started.end() == 0
        assert "SIGTERM: stopping at once; it cuts off" in started.process.err.text()
        with pytest.raises(Closed):
            client.response()


def test_worker_takes_one_stop_by_link_and_signal_as_one_request(worker):
    started = ready(worker("--log-level", "debug", "probe"))
    with started.client() as client:
        with started.client() as releases:
            started.hold(client)
            releases.send(b"GET /release/it HTTP/1.1\r\nHost: a\r\n")
            started.process.signal(signal.SIGINT)
            started.process.signal(signal.SIGTERM)
            started.process.err.wait(r"SIGTERM: stopping; [12] requests?")
            started.send("stop", cause="SIGTERM")
            releases.send(b"\r\n")
            assert client.response().status == 200
    assert started.end() == 0


def test_worker_that_cannot_import_the_application_says_why(worker):
    started = worker("no_such_module_at_all")
    event = started.receive()
    assert (event["event"], event["exit"]) == ("failed", 4), event
    assert "no_such_module_at_all" in event["reason"] and "\n" not in event["reason"], event
    assert started.end() == 4


def test_worker_whose_settings_are_wrong_says_so(worker):
    started = worker("probe", "--chdir", "/nowhere")
    event = started.receive()
    assert (event["event"], event["exit"]) == ("failed", 3), event
    assert started.end() == 3


def test_process_whose_link_is_none_ends_with_a_sentence(server):
    started = server("probe", ready=False, env={"_MAYPOLE_LINK": "0"})
    assert started.wait() == 3
    assert "error: cannot start as a worker: " in started.err.text()


def test_worker_s_children_do_not_see_the_link(worker):
    started = ready(worker("places:environment"))
    with started.client() as client:
        assert b"_MAYPOLE" not in client.get("/").body


def test_idle_client_moves_to_another_worker(worker):
    giver, taker = ready(worker("places:process")), ready(worker("places:process"))
    with giver.client() as client:
        assert client.get("/").body == str(giver.process.pid).encode()
        moved = 0
        # The worker may need a moment after the response until the connection is idle.
        while moved == 0:
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with one, other:
                taker.send("take", other.fileno())
                giver.send("give", one.fileno(), count=7)
            given = giver.receive()
            moved = given["moved"]
        assert given == {"event": "given", "moved": 1, "closed": 0, "stayed": 0}
        assert client.get("/").body == str(taker.process.pid).encode()


def test_worker_that_stops_keeps_its_idle_clients_connected(worker):
    old, new = ready(worker("places:process")), ready(worker("places:process"))
    with old.client() as client:
        assert client.get("/").body == str(old.process.pid).encode()
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, other:
            new.send("take", other.fileno())
            old.send("give", one.fileno(), count=None)
        old.send("stop", cause="SIGHUP")
        assert old.receive() == {"event": "left"}
        assert old.receive() == {"event": "given", "moved": 1, "closed": 0, "stayed": 0}
        assert old.end() == 0
        assert client.get("/").body == str(new.process.pid).encode()


def test_worker_that_stops_says_when_only_its_requests_are_left(worker):
    old, new = ready(worker("probe")), ready(worker("probe"))
    with old.client() as busy, old.client() as idle:
        old.hold(busy)
        assert idle.get("/").status == 200
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, other:
            new.send("take", other.fileno())
            old.send("give", one.fileno(), count=None)
        old.send("stop", cause="SIGHUP")
        assert old.receive() == {"event": "left"}
        assert idle.get("/").status == 200
        old.send("stop_now", cause="the test")
        assert old.end() == 0


def give(old, new, count=None):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        if new is not None:
            new.send("take", other.fileno())
        old.send("give", one.fileno(), count=count)


def test_client_that_finds_no_room_elsewhere_stays(worker):
    giver, taker = ready(worker("probe")), ready(worker("probe", "--max-connections", "1"))
    with giver.client() as first, giver.client() as second:
        moved = kept = 0
        for client in (first, second):
            assert client.get("/").status == 200
        # The worker may need a moment after the response until the connections are idle.
        while moved == 0 or kept == 0:
            give(giver, taker, count=7)
            given = giver.receive()
            assert given["closed"] == 0
            moved, kept = moved + given["moved"], kept + given["stayed"]
        assert moved == 1
        assert first.get("/").status == second.get("/").status == 200


def stop_without_receiver(old, *clients):
    """Stops a worker that serves one long request, and whose receiver has ended."""
    for client in clients:
        assert client.get("/").status == 200
    give(old, None)
    old.send("stop", cause="SIGHUP")
    old.process.err.wait("connections (stay, because|cannot be handed over)")


def test_client_waits_for_the_next_receiver_when_the_only_one_has_ended(worker):
    old, new = ready(worker("places:process")), ready(worker("places:process"))
    with old.client() as idle, old.client() as busy:
        stop_without_receiver(old, busy, idle)
        # Longer than a stop waits if no receiver is promised.
        with socket.create_server(("127.0.0.1", 0)) as never:
            never.settimeout(3)
            with pytest.raises(TimeoutError):
                never.accept()
        assert idle.get("/").body == str(old.process.pid).encode()
        give(old, new)
        assert old.end() == 0
        assert idle.get("/").body == busy.get("/").body == str(new.process.pid).encode()


def test_client_is_closed_when_the_supervisor_names_no_further_receiver(worker):
    old = ready(worker("probe"))
    with old.client() as idle:
        stop_without_receiver(old, idle)
        old.send("close_idle")
        assert old.end() == 0
        with pytest.raises(Closed):
            idle.get("/")
    assert [old.receive() for _ in range(2)] == [
        {"event": "left"},
        {"event": "given", "moved": 0, "closed": 1, "stayed": 0},
    ]


def test_clients_that_a_worker_has_no_descriptors_for_stay(worker):
    giver, taker = ready(worker("probe")), ready(worker("probe"))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(giver.client()) for _ in range(10)]
        for client in clients:
            assert client.get("/").status == 200
        # Room for the channel and for a few connections.
        room = taker.process.descriptors() + 4
        resource.prlimit(taker.process.pid, resource.RLIMIT_NOFILE, (room, room))
        moved = kept = 0
        while moved == 0 or kept == 0:
            give(giver, taker, count=10)
            given = giver.receive()
            assert given["closed"] == 0
            moved, kept = moved + given["moved"], kept + given["stayed"]
        assert moved < 10
        assert [client.get("/").status for client in clients] == [200] * 10
