"""The snippets of docs/howto/databases-and-threads.md, with a PostgreSQL that has few connections."""

import os
import re
import subprocess
import sys
import threading

import pytest

import brokers
from client import PATIENCE, Client
from process import clean_environment, eventually
from deployment import command, place, shop, snippet, snippets  # noqa: F401 (fixtures)

PAGE = "databases-and-threads"
CONNECTIONS = 20
CLIENTS = 60


@pytest.fixture(scope="module")
def postgres():
    """A separate PostgreSQL with 20 connections, of which three are reserved for administrators."""
    # The user `shop` is not a superuser, because PostgreSQL reserves three connections for superusers.
    with brokers.postgres(CONNECTIONS, "CREATE ROLE shop LOGIN", "CREATE DATABASE shop OWNER shop",
                          "GRANT pg_read_all_stats TO shop") as directory:  # fmt: skip
        yield directory


def ask_at_once(server, path, clients=CLIENTS):
    """Sends this many requests at the same time. Returns their statuses and bodies."""
    answers = []

    def ask():
        with Client(server.address) as client:
            response = client.get(path)
            answers.append((response.status, response.body))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return answers


WITHOUT_A_POOL = """
import os
import psycopg
def application(environ, start_response):
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute("SELECT pg_sleep(0.3)")
    start_response("200 OK", [])
    return []
"""


def test_without_a_pool_there_are_too_many(server, place, postgres):
    pytest.importorskip("psycopg")
    (place / "without.py").write_text(WITHOUT_A_POOL)
    running = server("without", cwd=place, env={"DATABASE_URL": f"postgresql://shop@/shop?host={postgres}"})

    def statuses():
        return {status for status, _ in ask_at_once(running, "/")}

    assert eventually(lambda: 500 in (found := statuses()) and found, what="too many") == {200, 500}
    # The error depends on how many connections are free.
    running.err.wait("FATAL:  (sorry, too many clients already|remaining connection slots are reserved)")


def line_of(number):
    """Returns the page's program and command line with this number."""
    test = "test_pool_keeps_within_the_connections_of_the_database"
    return snippets(PAGE, test, "python")[number], snippets(PAGE, test, "sh")[number]


@pytest.mark.parametrize("number", [0, 1], ids=["psycopg", "sqlalchemy"])
def test_pool_keeps_within_the_connections_of_the_database(number, server, place, postgres):
    for library in ("psycopg_pool", "sqlalchemy"):
        pytest.importorskip(library)
    body, line = line_of(number)
    name = re.match(r"# (\S+)", body)[1]
    (place / name).write_text(body)
    url, line = re.match(r"DATABASE_URL=(\S+) (.*)", line, re.S).groups()
    *options, application = command(line, place)
    url = url.replace("@db.example/shop", f"@/shop?host={postgres}")
    running = server(application, *options, cwd=place, env={"DATABASE_URL": url})
    answers = ask_at_once(running, "/orders", 200)
    assert len(answers) == 200 and {status for status, _ in answers} == {200}
    assert running.application_threads() > 10


SETTINGS = """
import shop_settings
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="for tests", ALLOWED_HOSTS=["*"], DATABASES=shop_settings.DATABASES)

def orders(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity, pg_sleep(0.02) WHERE usename = 'shop'")
        return HttpResponse(str(cursor.fetchone()[0]))

urlpatterns = [path("orders", orders)]
application = get_wsgi_application()
"""


ENDS = """
import gc
import sys
import threading
from urllib.request import urlopen

import psycopg

import maypole
from shop.wsgi import application

# Nothing else closes them.
gc.disable()

def connections():
    with psycopg.connect(sys.argv[1]) as connection:
        return connection.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'shop'").fetchone()[0] - 1

with maypole.Server(application, "127.0.0.1:0", threads=10) as server:
    address = f"http://{server.host}:{server.port}/orders"
    threads = [threading.Thread(target=lambda: urlopen(address).read()) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(connections())
print("left:", connections())
"""


def test_connections_of_django_end_with_their_threads(place, postgres):
    for library in ("django", "psycopg", "maypole"):
        pytest.importorskip(library)
    test = "test_pool_and_threads_bound_the_connections_of_django"
    (place / "shop_settings.py").write_text(snippets(PAGE, test, "python")[1].replace("db.example", postgres))
    (place / "shop").mkdir()
    (place / "shop/__init__.py").touch()
    (place / "shop/wsgi.py").write_text(SETTINGS)
    (place / "ends.py").write_text(ENDS)
    done = subprocess.run(
        [sys.executable, "ends.py", f"postgresql://shop@/shop?host={postgres}"], cwd=place, env=clean_environment(),
        capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stderr
    before, left = re.findall(r"(?m)^(?:left: )?(\d+)$", done.stdout)
    # A backend of the database may end late, but at most two do.
    assert int(before) > 2 and int(left) <= 2, done.stdout


@pytest.mark.parametrize("number", [0, 1], ids=["pool", "threads"])
def test_pool_and_threads_bound_the_connections_of_django(number, server, place, postgres):
    pytest.importorskip("psycopg_pool")
    if pytest.importorskip("django").VERSION < (5, 1):
        pytest.skip("this Django has no pool")
    test = "test_pool_and_threads_bound_the_connections_of_django"
    settings, line = snippets(PAGE, test, "python")[number], snippets(PAGE, test, "sh")[number]
    (place / "shop_settings.py").write_text(settings.replace("db.example", postgres))
    (place / "shop").mkdir()
    (place / "shop/__init__.py").touch()
    (place / "shop/wsgi.py").write_text(SETTINGS)
    # PostgreSQL has 17 connections for all ordinary users.
    *options, application = command(line.replace("--threads 20", "--threads 10"), place)
    running = server(application, *options, cwd=place)
    answers = ask_at_once(running, "/orders", 100)
    assert {status for status, _ in answers} == {200}
    assert max(int(body) for _, body in answers) <= 10
