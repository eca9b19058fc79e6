"""Very many WebSockets that rest: their threads, their memory, echoes through all of them, heart-beats, and clients that leave together.

`SOCKETS=10000` in the environment makes the crowd larger, and `pytest -s` shows the figures. `make soak-websockets` has each
socket receive as many pings as in a day.
"""

import json
import os
import time

import pytest

from crowd_of_sockets import Crowd
from process import all_descriptors, eventually

SOCKETS = int(os.environ.get("SOCKETS", 1000))
# How many pings each socket gets, and the seconds between two. A day has 2,880 of the usual ones.
PINGS = int(os.environ.get("PINGS", 3))
INTERVAL = float(os.environ.get("INTERVAL", 2))
THREADS_KIB = 256


@pytest.fixture
def crowded(server):
    running = server("many_sockets", "--backlog", "4096", preexec_fn=all_descriptors)

    def ask():
        return json.loads(running.get("/numbers").body)

    # The server has all objects afterwards that it makes once.
    few = Crowd(running.port, 50)
    few.echo()
    few.leave()
    eventually(lambda: ask()["open"] == 0, what="the first ones are closed")
    return running, ask


def test_crowd_of_sockets_echoes_and_rests(crowded):
    running, ask = crowded
    before = ask()
    began = time.monotonic()
    crowd = Crowd(running.port, SOCKETS)
    print(f"\n{SOCKETS} WebSockets are open after {time.monotonic() - began:.1f} s")
    numbers = eventually(lambda: (seen := ask())["open"] == SOCKETS and seen, what="all are open")
    each = lambda: (ask()["kib"] - before["kib"]) / SOCKETS  # noqa: E731
    print(f"{each():.2f} KiB each, {numbers['threads']} threads")
    # On a busy machine, calls may look as if they waited, and get more threads for some time.
    eventually(lambda: ask()["threads"] <= 16 and each() <= 2, 60, "few threads, and little memory")
    times = [crowd.echo() for _ in range(5)]
    print(f"a message through each and back: {', '.join(f'{took:.2f} s' for took in times)}")
    print(f"afterwards {each():.2f} KiB each, {ask()['threads']} threads")
    # The allocator keeps some memory for each further thread, however many sockets there are.
    eventually(lambda: each() <= 2 + THREADS_KIB / SOCKETS, 60, "little memory afterwards")
    crowd.leave()
    ended = eventually(lambda: (seen := ask())["open"] == 0 and seen["descriptors"] <= before["descriptors"] and seen,
                       what="nothing is left")
    assert sum(ended["closes"].values()) == SOCKETS + 50


def test_heart_beats_leave_nothing_behind(crowded):
    running, ask = crowded
    empty = ask()
    crowd = Crowd(running.port, SOCKETS, f"/?{INTERVAL}")
    eventually(lambda: ask()["open"] == SOCKETS, what="all are open")
    pings = 0
    while pings < SOCKETS:
        pings += crowd.beat(INTERVAL)
    before = ask()
    pings, began = 0, time.monotonic()
    while pings < SOCKETS * PINGS:
        pings += crowd.beat(INTERVAL)
    after = ask()
    grown = after["kib"] - before["kib"]
    print(f"\n{pings} pings for {SOCKETS} WebSockets in {time.monotonic() - began:.0f} s: {grown} KiB more, {after['threads']} threads")
    assert (after["open"], after["descriptors"]) == (SOCKETS, before["descriptors"])
    eventually(lambda: ask()["threads"] <= before["threads"] + 1, 60, "no more threads")
    # The allocator moves a little to and fro, whatever the number of pings.
    assert grown <= 512
    crowd.echo()
    crowd.leave()
    left = eventually(lambda: (seen := ask())["open"] == 0 and seen["descriptors"] <= empty["descriptors"] and seen, what="none is left")
    assert sum(left["closes"].values()) == SOCKETS + 50
