"""Server-sent events from Redis to the browsers of all workers (pip install redis maypole).

    maypole --chdir examples --workers 2 sse_redis
    curl -N http://127.0.0.1:8000/events
    redis-cli XADD news '*' data Hello

Any process may add events to the stream `news`. REDIS_URL names the server. Redis keeps the events, so that a browser
that was away gets what it has missed.
"""

import logging
import os
import re
import threading
import time

import redis

from maypole import sse

TOPIC = "news"
#: A browser that was away gets at most this many events.
MISSED_MAX = 1000
client = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1"), decode_responses=True, socket_timeout=30)


def order(id):
    """Returns the two numbers of an id of Redis: "1700000000000-0"."""
    parts = re.fullmatch("([0-9]{1,18})-([0-9]{1,18})", id)
    if not parts:
        raise ValueError(f"no id of a stream: {id!r}")
    return int(parts[1]), int(parts[2])


def older(topics, id):
    found = client.xrevrange(TOPIC, "+", f"({id}", count=MISSED_MAX)
    return [sse.Message(fields["data"], id=number) for number, fields in reversed(found)]


def bridge(seen):
    """Passes what Redis gets on to this worker's browsers. (A thread of each worker.)"""
    while True:
        try:
            for _, entries in client.xread({TOPIC: seen}, block=10_000):
                for seen, fields in entries:
                    broadcast.send(TOPIC, fields["data"], id=seen)
        except redis.RedisError:
            # Nothing is lost: the next read goes on behind `seen`.
            logging.getLogger("sse_redis").exception("cannot read from Redis")
            time.sleep(1)


def start():
    """Begins to follow, with what is added from now on."""
    newest = client.xrevrange(TOPIC, count=1)
    threading.Thread(target=bridge, args=[newest[0][0] if newest else "0-0"], daemon=True).start()


broadcast = sse.Broadcast(order=order, older=older, start=start, retry="1s")


def application(environ, start_response):
    if environ["PATH_INFO"] == "/events":
        return broadcast.subscribe(environ, TOPIC)(environ, start_response)
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"There is /events.\n"]
