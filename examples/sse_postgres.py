"""Server-sent events from PostgreSQL to the browsers of all workers (pip install "psycopg[binary]" maypole).

    maypole --chdir examples --workers 2 sse_postgres
    curl -N http://127.0.0.1:8000/events
    psql -c "SELECT publish('Hello')"

Any process may call `publish`. DATABASE_URL names the database; without it, libpq's variables do. The table keeps the
events, so that a browser that was away gets what it has missed.
"""

import logging
import os
import re
import threading
import time

import psycopg

from maypole import sse

DATABASE = os.environ.get("DATABASE_URL", "")
#: A browser that was away gets at most this many events.
MISSED_MAX = 1000
# The lock lets numbers grow in the order of the commits: otherwise a number could appear behind a larger one.
SCHEMA = """
SELECT pg_advisory_xact_lock(7070);
CREATE TABLE IF NOT EXISTS news (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data text NOT NULL);
CREATE OR REPLACE FUNCTION publish(data text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(7070);
    INSERT INTO news (data) VALUES (publish.data);
    SELECT pg_notify('news', '');
$$;
"""


def number(id):
    """Returns the number of a row. It raises ValueError for an id that a client has invented."""
    if not re.fullmatch("[0-9]{1,18}", id):
        raise ValueError(f"no id of a row: {id!r}")
    return int(id)


def rows(connection, after):
    found = connection.execute("SELECT id, data FROM news WHERE id > %s ORDER BY id", (after,))
    return [sse.Message(data, id=str(id)) for id, data in found]


def newest(connection):
    return connection.execute("SELECT coalesce(max(id), 0) FROM news").fetchone()[0]


def older(topics, id):
    with psycopg.connect(DATABASE) as connection:
        return rows(connection, max(number(id), newest(connection) - MISSED_MAX))


def listen():
    """Returns a connection that gets notifications."""
    connection = psycopg.connect(DATABASE, autocommit=True)
    connection.execute("LISTEN news")
    return connection


def bridge(connection, seen):
    """Passes new rows on to this worker's browsers. (A thread of each worker.)"""
    while True:
        try:
            for message in rows(connection, seen):
                broadcast.send("news", *message)
                seen = int(message.id)
            list(connection.notifies(timeout=10, stop_after=1))
        except psycopg.OperationalError:
            # Nothing is lost: the next look at the table goes on behind `seen`.
            logging.getLogger("sse_postgres").exception("cannot read from PostgreSQL")
            time.sleep(1)
            connection = reconnected(connection)


def reconnected(connection):
    """Returns a new connection, or the old one if there is none."""
    try:
        return listen()
    except psycopg.OperationalError:
        return connection


def start():
    """Begins to follow, with what is published from now on."""
    connection = listen()
    threading.Thread(target=bridge, args=[connection, newest(connection)], daemon=True).start()


broadcast = sse.Broadcast(order=number, older=older, start=start, retry="1s")
with psycopg.connect(DATABASE) as first:
    first.execute(SCHEMA)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/events":
        return broadcast.subscribe(environ, "news")(environ, start_response)
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"There is /events.\n"]
