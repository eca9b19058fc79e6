"""The examples that bring events of Redis and PostgreSQL to the browsers of all workers, with the real servers."""

import signal

import pytest

import brokers
from event_sources import EventSources
from process import EXAMPLES

pytest.importorskip("maypole.sse")


@pytest.fixture(scope="module")
def redis_url():
    pytest.importorskip("redis")
    with brokers.redis() as url:
        yield url


@pytest.fixture(scope="module")
def database_url():
    pytest.importorskip("psycopg")
    with brokers.postgres(50, "CREATE ROLE news LOGIN", "CREATE DATABASE news OWNER news") as directory:
        yield f"postgresql://news@/news?host={directory}"


class Redis:
    """The example for Redis, and a program that adds events to it."""

    example = "sse_redis"

    def __init__(self, url):
        import redis

        self.env, self.client = {"REDIS_URL": url}, redis.Redis.from_url(url)

    def publish(self, data):
        self.client.xadd("news", {"data": data})

    def lose_connections(self):
        self.client.client_kill_filter(_type="normal", skipme=True)


class Postgres:
    """The example for PostgreSQL, and a program that adds events to it."""

    example = "sse_postgres"

    def __init__(self, url):
        import psycopg

        self.env, self.connection = {"DATABASE_URL": url}, psycopg.connect(url, autocommit=True)

    def publish(self, data):
        self.connection.execute("SELECT publish(%s)", (data,))

    def lose_connections(self):
        self.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'news' AND pid <> pg_backend_pid()")


@pytest.fixture(params=["redis_url", "database_url"])
def bridge(request):
    return {"redis_url": Redis, "database_url": Postgres}[request.param](request.getfixturevalue(request.param))


def subscribe(started, *fields):
    client = started.client().request("GET /events HTTP/1.1", *fields)
    assert client.head().status == 200
    client.read_until(b"retry: 1000\n\n")
    return client


def wait_for(client, data):
    """Reads until an event has come, and returns its id."""
    seen = client.read_until(f"data: {data}\n\n".encode())
    return seen.rpartition(b"id: ")[2].partition(b"\n")[0].decode()


def test_event_of_another_process_comes_to_the_clients_of_each_worker(server, bridge):
    started = server(bridge.example, "--workers", "2", env=bridge.env, cwd=EXAMPLES)
    # Connections go to the workers in turn, and some of many to each.
    clients = [subscribe(started) for _ in range(8)]
    for data in ("one", "two", "gr\u00fc\u00dfe"):
        bridge.publish(data)
        assert len({wait_for(client, data) for client in clients}) == 1, "an event has one id at all workers"
    for client in clients:
        client.close()


def test_client_that_was_away_misses_nothing_also_after_a_restart(server, bridge):
    started = server(bridge.example, env=bridge.env, cwd=EXAMPLES)
    with subscribe(started) as client:
        bridge.publish("seen")
        seen = wait_for(client, "seen")
    started.signal(signal.SIGTERM)
    started.wait()
    bridge.publish("while it was down")
    started = server(bridge.example, env=bridge.env, cwd=EXAMPLES)
    with subscribe(started, f"Last-Event-ID: {seen}") as client:
        bridge.publish("after")
        text = client.read_until(b"data: after\n\n")
    assert text.count(b"data: ") == 2 and text.index(b"data: while it was down") < text.index(b"data: after")


def test_clients_get_each_event_once_while_workers_are_replaced(server, bridge):
    started = server(bridge.example, "--workers", "2", env=bridge.env, cwd=EXAMPLES)
    published = []
    with EventSources(started.port, "/events", 40) as crowd:
        crowd.run(lambda client: client.is_open)

        def publish(number):
            for _ in range(number):
                published.append(f"line {len(published)}")
                bridge.publish(published[-1])
            crowd.run(lambda client: len(client.events) >= len(published))

        publish(10)
        start = len(started.err.text())
        started.signal(signal.SIGHUP)
        while "reloaded: 2 workers" not in started.err.text()[start:]:
            assert len(published) < 10_000, "the workers are not replaced"
            publish(1)
        publish(10)
        assert all(client.events == published for client in crowd.clients)
        assert all(client.connections >= 2 for client in crowd.clients)


def test_bridge_that_has_lost_its_connection_goes_on(server, bridge):
    started = server(bridge.example, env=bridge.env, cwd=EXAMPLES)
    with subscribe(started) as client:
        bridge.publish("before")
        wait_for(client, "before")
        bridge.lose_connections()
        bridge.publish("after")
        wait_for(client, "after")


@pytest.mark.parametrize("id", ["x", "-1", "9" * 50, "1;2", "0-", "\u0661".encode().decode("latin-1")])
def test_id_that_a_client_has_invented_is_harmless(server, bridge, id):
    started = server(bridge.example, env=bridge.env, cwd=EXAMPLES)
    with subscribe(started, f"Last-Event-ID: {id}") as client:
        bridge.publish("new")
        assert client.read_until(b"data: new\n\n").count(b"data: ") == 1
    assert "Traceback" not in started.err.text()
