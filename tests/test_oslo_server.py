"""maypole.oslo's services as objects, in this process: arguments, errors, options, order of calls, access log."""

import errno
import os
import pickle
import re
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from client import PATIENCE, Client
from process import eventually

# Only the interpreter of the whole test run has OpenStack.
cfg = pytest.importorskip("oslo_config.cfg")
_options = pytest.importorskip("oslo_service._options")
oslo = pytest.importorskip("maypole.oslo")

ACCESS = "eventlet.wsgi.server"


def application(environ, start_response):
    body = environ["SERVER_PORT"].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Loader:
    """A loader as oslo_service.wsgi.Loader, without a file."""

    def load_app(self, name):
        if name != "api":
            raise LookupError(name)
        return application


@pytest.fixture
def conf():
    conf = cfg.ConfigOpts()
    oslo.register_opts(conf)
    conf([], project="test", default_config_files=[])
    return conf


@pytest.fixture
def make(conf):
    """Makes a service with these changes of the configuration, and stops it at the end."""
    made = []

    def make(kind=oslo.Server, options=None, app=application, name="api", **more):
        for option, value in (options or {}).items():
            conf.set_override(option, value)
        if kind is oslo.Server:
            more.setdefault("host", "127.0.0.1")
        service = kind(conf, name, app, **more)
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()
        service.wait()


def at(service):
    return f"{service.host}:{service.port}"


def tasks():
    return set(os.listdir("/proc/self/task"))


# Arguments and errors.


def test_construction_listens_and_starts_no_thread(make):
    before = tasks()
    server = make()
    assert tasks() <= before
    assert server.host == "127.0.0.1" and server.port > 0
    assert server.socket.getsockname() == (server.host, server.port)
    assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 600
    assert (server.name, server.app, server.pool_size, server.client_socket_timeout) == ("api", application, 100, 900)
    assert server._server is None and server.dup_socket is None
    with socket.create_connection((server.host, server.port), 5):
        pass


def test_no_host_listens_on_all_addresses(conf):
    server = oslo.Server(conf, "api", application)
    with server.socket:
        assert server.host == "0.0.0.0"


def test_ipv6_host_listens_there(make):
    server = make(host="::1")
    server.start()
    assert Client(f"[::1]:{server.port}").get().status == 200


def test_backlog_below_one_is_invalid_input(make):
    with pytest.raises(oslo.InvalidInput, match="backlog"):
        make(backlog=0)


def test_backlog_below_one_is_the_error_of_oslo_service_where_that_is_imported():
    script = """if True:
        from oslo_config import cfg
        from oslo_service import wsgi
        from maypole import oslo
        try:
            oslo.Server(cfg.ConfigOpts(), "api", print, backlog=0)
        except wsgi.InvalidInput:
            print("theirs")
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "theirs\n", done.stderr


def test_other_socket_family_is_a_value_error(make):
    with pytest.raises(ValueError, match="socket family"):
        make(socket_family=socket.AF_NETLINK)


def test_address_in_use_is_an_os_error(make):
    port = make().port
    with pytest.raises(OSError) as raised:
        make(port=port)
    assert raised.value.errno == errno.EADDRINUSE


def test_tls_without_files_is_refused_with_a_sentence(make):
    with pytest.raises(RuntimeError, match=r"cert_file and key_file in the section \[ssl\]"):
        make(use_ssl=True)


def test_protocol_class_is_refused(make):
    with pytest.raises(TypeError, match="protocol"):
        make(protocol=object)


def test_unknown_setting_is_refused_and_the_socket_closed(make):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TypeError, match="pool_zize"):
        make(pool_zize=3)
    # A server of another test may still close some when they are counted.
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, what="that no descriptor is left")


def test_wrong_log_format_is_refused_at_construction(make):
    with pytest.raises(ValueError, match="wsgi_log_format"):
        make(options={"wsgi_log_format": "%(nothing)s"})


def test_unix_socket_has_its_mode_and_replaces_a_stale_file(make, tmp_path):
    path = str(tmp_path / "api.sock")
    for _ in range(2):
        server = make(socket_family=socket.AF_UNIX, socket_file=path, socket_mode=0o600)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert (server.host, server.port) == (path, None)
        server.start()
        with Client("unix:" + path) as client:
            assert client.get().status == 200
        with pytest.raises(OSError):
            make(socket_family=socket.AF_UNIX, socket_file=path)
        server.close()


def test_file_that_is_no_socket_stays(make, tmp_path):
    path = tmp_path / "precious"
    path.write_text("kept")
    with pytest.raises(OSError):
        make(socket_family=socket.AF_UNIX, socket_file=str(path))
    assert path.read_text() == "kept"


# Options.


def test_options_are_those_of_oslo_service():
    ours = {opt.name: (type(opt.type), opt.default) for _, opts in oslo.list_opts() for opt in opts}
    assert ours == {opt.name: (type(opt.type), opt.default) for opt in _options.wsgi_opts}


@pytest.mark.parametrize("theirs_first", [True, False])
def test_options_may_be_registered_by_both(theirs_first):
    conf = cfg.ConfigOpts()
    if theirs_first:
        conf.register_opts(_options.wsgi_opts)
    oslo.register_opts(conf)
    oslo.register_opts(conf)
    conf.register_opts(_options.wsgi_opts)
    conf([], project="test", default_config_files=[])
    assert conf.wsgi_default_pool_size == 100


def test_keep_alive_off_closes_after_each_response(make):
    server = make(options={"wsgi_keep_alive": False})
    server.start()
    with Client(at(server)) as client:
        assert client.get().get("Connection") == "close"
        client.assert_closed()


def test_client_socket_timeout_closes_an_idle_connection(make):
    server = make(options={"client_socket_timeout": 1})
    server.start()
    with Client(at(server)) as client:
        client.assert_open()
        client.assert_closed()


def test_client_socket_timeout_zero_waits_for_ever(make):
    server = make(options={"client_socket_timeout": 0})
    assert server.client_socket_timeout is None
    server.start()
    with Client(at(server)) as client:
        client.assert_open()
        assert client.quiet(1)


def test_long_request_line_and_long_field_are_refused(make):
    server = make(options={"max_header_line": 1000}, max_url_len=500)
    server.start()
    for field, path, status in (("A: b", "/" + "u" * 600, 414), ("A: " + "b" * 1100, "/", 431), ("A: b", "/", 200)):
        with Client(at(server)) as client:
            assert client.get(path, field).status == status


def test_pool_size_is_the_number_of_requests_at_once(make):
    inside, gate = [], threading.Event()

    def holding(environ, start_response):
        inside.append(environ["PATH_INFO"])
        gate.wait(20)
        return application(environ, start_response)

    server = make(app=holding, pool_size=2)
    server.start()
    clients = [Client(at(server)).request() for _ in range(3)]
    eventually(lambda: len(inside) == 2)
    assert clients[2].quiet(0.3) and len(inside) == 2
    assert server._pool.running() == 2
    gate.set()
    for client in clients:
        with client:
            assert client.response().status == 200


# Calls in every order.


def test_calls_before_start_are_harmless(make):
    server = make()
    server.wait()
    server.stop()
    server.reset()
    server.stop()
    server.wait()
    server.start()
    with Client(at(server)) as client:
        client.assert_open()


def test_service_starts_again_after_stop(make):
    server = make()
    descriptors = []
    for _ in range(3):
        server.start()
        server.start()
        with Client(at(server)) as client:
            client.assert_open()
            server.stop()
            client.assert_closed()
        server.stop()
        server.wait()
        server.reset()
        descriptors.append(len(os.listdir("/proc/self/fd")))
    # A server that has ended may still close some when they are counted.
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors[1], what="that no descriptor is left")


def test_stop_on_another_thread_ends_wait_and_answers_what_runs(make):
    inside, gate = threading.Event(), threading.Event()

    def holding(environ, start_response):
        inside.set()
        gate.wait(20)
        return application(environ, start_response)

    server = make(app=holding)
    server.start()
    with Client(at(server)) as client:
        client.request()
        assert inside.wait(10)
        stopping, waiting = threading.Thread(target=server.stop), threading.Thread(target=server.wait)
        stopping.start()
        waiting.start()
        stopping.join(0.3)
        assert stopping.is_alive() and waiting.is_alive()
        gate.set()
        assert client.response().status == 200
        stopping.join(10)
        waiting.join(10)
        assert not stopping.is_alive() and not waiting.is_alive()


@pytest.mark.parametrize("attempt", range(6))
def test_stop_does_not_wait_for_clients_that_keep_their_side_open(make, attempt):
    """epoll may report a request before or after it has been read, so the test needs several attempts."""
    gate = threading.Event()
    server = make(app=lambda environ, start_response: gate.wait(60) and application(environ, start_response))
    server.start()
    clients = [Client(at(server)).request() for _ in range(4)]
    eventually(lambda: server._pool.running() == 4)
    began = time.monotonic()
    threading.Timer(0.3, gate.set).start()
    server.stop()
    assert time.monotonic() - began < PATIENCE
    for client in clients:
        with client:
            assert client.response().status == 200
            client.assert_closed()


def test_stop_gives_up_before_the_launcher_does(make, conf, caplog):
    conf.register_opts(_options.service_opts)
    gate, inside = threading.Event(), threading.Event()

    def holding(environ, start_response):
        inside.set()
        gate.wait(30)
        return application(environ, start_response)

    server = make(app=holding, options={"graceful_shutdown_timeout": 2})
    server.start()
    with Client(at(server)) as client:
        client.request("GET /held HTTP/1.1")
        assert inside.wait(10)
        began = time.monotonic()
        # The application returns when the time is over, so that its thread can end.
        threading.Timer(2, gate.set).start()
        server.stop()
        assert 1.7 < time.monotonic() - began < PATIENCE
        client.assert_closed()
    assert "stopped before all requests had ended" in caplog.text
    assert "GET /held" in caplog.text


@pytest.mark.parametrize("kind, more", [
    (oslo.Server, {}), (oslo.WSGIService, {"listens": ["127.0.0.1:0", "127.0.0.1:0"], "app": Loader()})])
def test_pickled_service_binds_again(make, kind, more):
    """Only multiprocessing can pass a descriptor to another process."""
    service = make(kind, **more)
    pickled = pickle.dumps(service)
    service.close()
    again = pickle.loads(pickled)
    assert (again.host, again.port, again.app) == (service.host, service.port, application)
    again.start()
    try:
        with Client(at(again)) as client:
            client.assert_open()
    finally:
        again.close()


# The access log.


def lines_of(caplog, count):
    eventually(lambda: sum(record.name == ACCESS for record in caplog.records) >= count)
    return [record.getMessage() for record in caplog.records if record.name == ACCESS]


def test_access_line_is_as_oslo_writes_it(make, caplog):
    caplog.set_level("INFO")
    server = make()
    server.start()
    with Client(at(server)) as client:
        response = client.get("/a?b=c")
        client.get("/", "X-Forwarded-For: 10.0.0.1, 10.0.0.2")
    first, second = lines_of(caplog, 2)
    length = len(response.head) + len(response.body)
    assert re.fullmatch(rf'127\.0\.0\.1 "GET /a\?b=c HTTP/1\.1" status: 200  len: {length} time: \d+\.\d{{7}}', first)
    assert second.startswith('10.0.0.1,10.0.0.2,127.0.0.1 "GET / HTTP/1.1" status: 200')


def test_access_line_has_every_field_and_its_own_logger(make, caplog):
    caplog.set_level("INFO")
    log_format = "%(client_port)s %(date_time)s %(status_code)d"
    server = make(options={"wsgi_log_format": log_format}, logger_name="api.access")
    server.start()
    with Client(at(server)) as client:
        port = client.socket.getsockname()[1]
        client.get()
    eventually(lambda: any(record.name == "api.access" for record in caplog.records))
    line = next(record.getMessage() for record in caplog.records if record.name == "api.access")
    assert re.fullmatch(rf"{port} \d\d/\w{{3}}/\d{{4}} \d\d:\d\d:\d\d 200", line)


# Several listeners.


def test_wsgi_service_serves_on_every_listener(make):
    service = make(oslo.WSGIService, app=Loader(), listens=["127.0.0.1:0", "127.0.0.1:0"])
    assert service.app is application
    assert service.addresses[0] == at(service) and len(set(service.addresses)) == 2
    service.start()
    for address in service.addresses:
        with Client(address) as client:
            assert client.get().body == address.rpartition(":")[2].encode()


def test_wsgi_service_whose_application_is_unknown_is_an_error(make):
    with pytest.raises(LookupError):
        make(oslo.WSGIService, app=Loader(), name="other", listens=["127.0.0.1:0"])


@pytest.mark.parametrize("listens", ["127.0.0.1:0", [], ["127.0.0.1"], ["127.0.0.1:http"]])
def test_wsgi_service_with_wrong_listens_is_a_value_error(make, listens):
    with pytest.raises(ValueError, match="listens|expected"):
        make(oslo.WSGIService, listens=listens)
