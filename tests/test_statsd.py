"""Numbers for StatsD: gunicorn's names, each count once, over UDP and a unix socket, and without a server."""

import collections
import re
import signal
import socket

import pytest

PATIENCE = 60
LINE = re.compile(r"shop\.([a-z_]+\.[\w.]+):(\d+(?:\.\d+)?)\|(c\|@1\.0|g|ms(?:\|@[\d.]+)?)\|#env:test,a")


class Receiver:
    """A StatsD server: it keeps the sum of each counter, the last value of each gauge, and all times."""

    def __init__(self, path=None):
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(str(path) if path else ("127.0.0.1", 0))
        self.address = f"unix://{path}" if path else f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.counters, self.gauges, self.times = collections.Counter(), {}, []

    def wait(self, condition):
        """Receives until the condition is true."""
        while not condition():
            for line in self.socket.recv(65536).decode().split("\n"):
                name, value, kind = LINE.fullmatch(line).groups()
                if kind.startswith("c"):
                    self.counters[name] += int(value)
                elif kind == "g":
                    self.gauges[name] = float(value)
                else:
                    assert name == "gunicorn.request.duration"
                    self.times.append(float(value))

    def settings(self):
        return "--statsd-host", self.address, "--statsd-prefix", "shop.", "--dogstatsd-tags", "env:test,a"


@pytest.mark.parametrize("kind", ["udp-alone", "unix-workers"])
def test_each_number_arrives_once(server, tmp_path, kind):
    receiver = Receiver(tmp_path / "statsd" if kind.startswith("unix") else None)
    workers = 2 if kind.endswith("workers") else 1
    running = server("probe", *(["-w", "2"] if workers == 2 else []), *receiver.settings())
    counters = receiver.counters
    assert [running.get(path).status for path in ("/", "/", "/missing", "/fail")] == [200, 200, 404, 500]
    receiver.wait(lambda: counters["gunicorn.requests"] >= 4 and counters["gunicorn.log.exception"])
    receiver.wait(lambda: receiver.gauges.get("gunicorn.workers") == workers)
    assert 0 <= receiver.gauges["maypole.saturation_ratio"] <= 1 and receiver.gauges["maypole.threads"] >= 1
    assert len(receiver.times) == 4 and all(0 <= time < 60_000 for time in receiver.times)
    # The end of the service sends what was counted in its last second.
    assert running.get().status == 200
    running.stop()
    receiver.wait(lambda: counters["gunicorn.requests"] == 5)
    statuses = {name.rpartition(".")[2]: count for name, count in counters.items() if "status" in name}
    assert statuses == {"200": 3, "404": 1, "500": 1}
    assert counters["gunicorn.log.exception"] == 1 and "gunicorn.log.error" not in counters


def test_server_that_is_missing_is_said_once_and_gets_the_numbers_once_it_is_there(server, tmp_path):
    path = tmp_path / "statsd"
    running = server("probe", "--statsd-host", f"unix://{path}", "--statsd-prefix", "shop", "--dogstatsd-tags", "env:test,a")
    running.err.wait(rf"\[WARNING\] StatsD at unix://{path} takes no numbers: No such file or directory; they are lost until ")
    receiver = Receiver(path)
    assert running.get().status == 200
    receiver.wait(lambda: receiver.counters["gunicorn.requests"] == 1)
    receiver.socket.close()
    assert running.get().status == 200
    running.stop()
    assert running.err.text().count("takes no numbers") == 1


def test_reload_follows_the_settings(server, tmp_path):
    first, second = Receiver(), Receiver(tmp_path / "statsd")
    settings = tmp_path / "maypole.toml"
    text = '[maypole]\nworkers = 1\nstatsd_host = "{}"\nstatsd_prefix = "shop"\ndogstatsd_tags = "env:test,a"\n'
    settings.write_text(text.format(first.address))
    running = server("probe", "-c", settings)
    assert running.get().status == 200
    first.wait(lambda: first.counters["gunicorn.requests"] == 1)
    settings.write_text(text.format(second.address))
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 1 worker ")
    assert running.get("/missing").status == 404
    second.wait(lambda: second.counters["gunicorn.requests"])
    # What the first server has got is not sent again.
    assert second.counters == {"gunicorn.requests": 1, "gunicorn.request.status.404": 1}
