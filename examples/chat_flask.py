"""A chat with server-sent events, shared by all workers (pip install flask maypole).

    maypole --chdir examples --workers 2 chat_flask:app

The messages are rows of an SQLite file, `chat.sqlite3` or what CHAT_FILE names. A thread of each worker looks for new
rows. So a browser that was away, also during a restart, gets what it has missed. Other brokers: sse_redis.py and
sse_postgres.py.
"""

import contextlib
import json
import os
import re
import sqlite3
import threading

from flask import Flask, request

from maypole import sse

FILE = os.environ.get("CHAT_FILE", "chat.sqlite3")
#: A browser that was away gets at most this many messages.
MISSED_MAX = 1000

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Chat</title>
<ul id="messages"></ul>
<form><input name="name" value="me" size="8"> <input name="text" autofocus> <button>Send</button></form>
<script>
let last = "";
function listen() {
  const stream = new EventSource("events?after=" + encodeURIComponent(last));
  stream.onopen = () => document.title = "Chat: open";
  stream.onmessage = event => {
    last = event.lastEventId;
    const message = JSON.parse(event.data), line = document.createElement("li");
    line.textContent = message.name + ": " + message.text;
    document.getElementById("messages").append(line);
  };
  stream.onerror = () => {
    document.title = "Chat: waiting";
    // The browser itself connects again, but gives up if a proxy responds with an error.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  };
}
document.querySelector("form").onsubmit = event => {
  event.preventDefault();
  fetch("send", {method: "POST", body: new FormData(event.target)});
  event.target.text.value = "";
};
listen();
</script>
"""

app = Flask(__name__)
written = threading.Event()


@contextlib.contextmanager
def database():
    """Gives a connection, commits, and closes it."""
    with contextlib.closing(sqlite3.connect(FILE, timeout=30)) as db, db:
        yield db


def messages(after):
    """Returns the messages after a number as events."""
    with database() as db:
        rows = db.execute("SELECT id, name, text FROM messages WHERE id > ? ORDER BY id", (after,)).fetchall()
    return [sse.Message(json.dumps({"name": name, "text": text}), id=str(number)) for number, name, text in rows]


def newest():
    with database() as db:
        return db.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()[0]


def number(id):
    """Returns the number of a row. It raises ValueError for an id that a client has invented."""
    if not re.fullmatch("[0-9]{1,18}", id):
        raise ValueError(f"no id of a message: {id!r}")
    return int(id)


def follow(seen):
    """Sends new rows to this worker's browsers. (A thread of each worker.)"""
    while True:
        # What this worker has written is sent at once, and what others have written within 100 ms.
        written.wait(0.1)
        written.clear()
        try:
            for message in messages(seen):
                broadcast.send("chat", *message)
                seen = int(message.id)
        except sqlite3.OperationalError:
            app.logger.exception("cannot read the messages")


def start():
    """Begins to follow, with what is written from now on."""
    threading.Thread(target=follow, args=[newest()], daemon=True).start()


def older(topics, id):
    return messages(max(number(id), newest() - MISSED_MAX))


broadcast = sse.Broadcast(order=number, older=older, start=start, retry="1s")
with database() as db:
    db.execute("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, text TEXT)")


@app.get("/")
def page():
    return PAGE


@app.get("/events")
def events():
    # A page that is new begins with the last 50 messages.
    after = request.args.get("after") or str(max(0, newest() - 50))
    return broadcast.subscribe(request, "chat", last_event_id=after).response()


@app.post("/send")
def send():
    with database() as db:
        db.execute("INSERT INTO messages (name, text) VALUES (?, ?)", (request.form["name"], request.form["text"]))
    written.set()
    return "", 204
