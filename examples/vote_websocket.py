"""A vote over WebSockets that rest, without a framework (pip install maypole).

    maypole --chdir examples vote_websocket:application

The page connects again when its socket is closed, as at a reload, and sends again what was not acknowledged. The votes are
rows of an SQLite file, `votes.sqlite3` or what VOTES_FILE names. A vote has an id of the page, so it counts once. Each
process tells its own sockets: several workers need a broker, as in sse_redis.py.
"""

import contextlib
import json
import os
import sqlite3
import threading

FILE = os.environ.get("VOTES_FILE", "votes.sqlite3")
CHOICES = ("tea", "coffee")

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Vote</title>
<p id="state">connecting</p>
<p><button id="tea">Tea</button> <span id="tea-votes"></span>
<p><button id="coffee">Coffee</button> <span id="coffee-votes"></span>
<script>
const pending = new Map();
let socket, pause = 100;
const show = (id, text) => document.getElementById(id).textContent = text;
function connect() {
  socket = new WebSocket(new URL("votes", location.href.replace(/^http/, "ws")));
  socket.onopen = () => {
    pause = 100;
    show("state", "open");
    pending.forEach(vote => socket.send(vote));
  };
  socket.onmessage = event => {
    const {counted, votes} = JSON.parse(event.data);
    pending.delete(counted);
    for (const choice in votes) show(choice + "-votes", votes[choice]);
  };
  socket.onclose = () => {
    show("state", "waiting");
    // Not all pages come back in the same moment.
    setTimeout(connect, pause * (0.5 + Math.random()));
    pause = Math.min(2 * pause, 10000);
  };
}
for (const choice of ["tea", "coffee"])
  document.getElementById(choice).onclick = () => {
    const id = crypto.getRandomValues(new Uint32Array(4)).join("-"), vote = JSON.stringify({id, choice});
    pending.set(id, vote);
    if (socket.readyState === WebSocket.OPEN) socket.send(vote);
  };
connect();
</script>
"""

sockets = set()
# Held while votes are counted and sent, so that each socket gets the totals in order.
counting = threading.Lock()


@contextlib.contextmanager
def database():
    """Gives a connection, commits, and closes it."""
    with contextlib.closing(sqlite3.connect(FILE, timeout=30)) as db, db:
        yield db


def votes():
    with database() as db:
        found = dict(db.execute("SELECT choice, count(*) FROM votes GROUP BY choice"))
    return {choice: found.get(choice, 0) for choice in CHOICES}


def tell(ws, **news):
    try:
        ws.send(json.dumps(news))
    except BlockingIOError:
        ws.close(1013, "too slow")
    except BrokenPipeError:
        pass


def on_message(ws, message):
    try:
        vote = json.loads(message)
        id, choice = vote["id"], vote["choice"]
        if choice not in CHOICES or not isinstance(id, str) or len(id) > 60:
            raise ValueError(choice)
    except (ValueError, KeyError, TypeError):
        ws.close(1008, "this is no vote")
        return
    with counting:
        with database() as db:
            db.execute("INSERT OR IGNORE INTO votes (id, choice) VALUES (?, ?)", (id, choice))
        now = votes()
        tell(ws, counted=id, votes=now)
        for other in sockets - {ws}:
            tell(other, votes=now)


def on_close(ws, code, reason):
    with counting:
        sockets.discard(ws)


with database() as db:
    db.execute("CREATE TABLE IF NOT EXISTS votes (id TEXT PRIMARY KEY, choice TEXT)")


def application(environ, start_response):
    if environ["PATH_INFO"] == "/votes":
        request = environ.get("maypole.websocket")
        if request is None:
            start_response("426 Upgrade Required", [("Upgrade", "websocket"), ("Content-Length", "0")])
            return [b""]
        ws = request.accept(on_message, on_close, max_message=1000, max_rate=20)
        with counting:
            sockets.add(ws)
            tell(ws, votes=votes())
        return []
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return [PAGE.encode()]
