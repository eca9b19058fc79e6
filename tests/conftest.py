"""The hooks and the fixtures of the tests. client.py has the client, and process.py the server."""

import os

import pytest

pytest.register_assert_rewrite("client", "process", "running")

from process import MAYPOLE, RUNNING, factory  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "smoke: also run on every other CPython of the machine")
    config.addinivalue_line("markers", "slow: takes longer than 20 s")


def pytest_sessionstart(session):
    if not os.access(MAYPOLE, os.X_OK):
        pytest.exit(f"{MAYPOLE} is not there: build it first, or name another one in MAYPOLE", returncode=2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in RUNNING:
            report.sections.append((f"error log of {server.name}", server.err.text()[-8000:]))


@pytest.fixture
def server():
    """Starts servers for one test: `server("app", "--option", "value", env={…})`."""
    with factory() as start:
        yield start


@pytest.fixture(scope="module")
def module_server():
    """Starts servers that all tests of a file share."""
    with factory() as start:
        yield start


@pytest.fixture(scope="module")
def probe(module_server):
    """A shared server with the application `probe` and default deadlines, for tests that leave no trace."""
    return module_server("probe")


@pytest.fixture
def client(probe):
    with probe.client() as client:
        yield client
