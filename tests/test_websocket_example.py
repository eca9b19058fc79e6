"""examples/vote_websocket.py: the protocol, and the page in a real Chromium through reloads and restarts."""

import json
import signal
import struct

import pytest

from browser import CHROMIUM, browser
from ports import free_port
from process import EXAMPLES, eventually
from test_resting_websocket import receive
from test_websocket import CLOSE, TEXT, WebSocket

APP = "vote_websocket:application"
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")


@pytest.fixture
def voting(server, tmp_path):
    env = {"VOTES_FILE": str(tmp_path / "votes.sqlite3")}

    def start(*words):
        return server(APP, *words, cwd=EXAMPLES, env=env, bind=not words)

    return start


def vote(websocket, **fields):
    """Sends a message, and returns the next news."""
    return news(websocket.send(TEXT, json.dumps(fields).encode()))


def news(websocket):
    kind, content = receive(websocket)
    assert kind == TEXT
    return json.loads(content)


def test_vote_counts_once_and_each_socket_learns_of_it(voting):
    running = voting()
    with WebSocket(running.address, "/votes") as one, WebSocket(running.address, "/votes") as other:
        assert news(one) == news(other) == {"votes": {"tea": 0, "coffee": 0}}
        for _ in range(2):
            assert vote(one, id="1-2-3-4", choice="tea") == {"counted": "1-2-3-4", "votes": {"tea": 1, "coffee": 0}}
            assert news(other) == {"votes": {"tea": 1, "coffee": 0}}


@pytest.mark.parametrize("sent", ["no JSON", "[]", '{"id": "1"}', '{"id": "1", "choice": "milk"}', '{"id": 1, "choice": "tea"}'])
def test_message_that_is_no_vote_closes_the_socket(voting, sent):
    running = voting()
    with WebSocket(running.address, "/votes") as websocket:
        news(websocket)
        assert receive(websocket.send(TEXT, sent.encode())) == (CLOSE, struct.pack("!H", 1008) + b"this is no vote")


def test_request_without_a_handshake_says_what_is_needed(voting):
    assert voting().get("/votes").status == 426


@needs_browser
def test_page_votes_through_reloads_and_a_restart(voting, tmp_path):
    port = free_port()
    running = voting("--bind", f"127.0.0.1:{port}", "-w", "1")
    with browser(tmp_path) as page:
        page.open(f"http://127.0.0.1:{port}/")

        def sees(tea, state="open"):
            wanted = [str(tea), state]
            eventually(lambda: page.value("['tea-votes', 'state'].map(id => document.getElementById(id)?.textContent)") == wanted,
                       60, f"the page shows {wanted}")

        def click():
            page.value("document.getElementById('tea').click()")

        sees(0)
        click()
        sees(1)
        for expected in (2, 3):
            running.signal(signal.SIGHUP)
            # The page is told before the old worker ends.
            click()
            sees(expected)
        running.stop()
        sees(3, "waiting")
        for _ in range(3):
            click()
        voting("--bind", f"127.0.0.1:{port}")
        sees(6)
