"""docs/howto/systemd.md and processes.md: systemd accepts the units, and the statements about sockets are true."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from client import PATIENCE, Client, Closed
from ports import free_port
from process import APPS, MAYPOLE, clean_environment, eventually, run
from deployment import HOWTO, alone, file_name, needs, place, snippet, snippets  # noqa: F401 (fixtures)

PAGE = "systemd"


def analyze(*arguments):
    needs("systemd-analyze")
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=3 * PATIENCE,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"})


def unit(body):
    """Returns a unit with a program, a directory and a user of this machine."""
    body = body.replace("/srv/shop/venv/bin/maypole", str(MAYPOLE)).replace("=/srv/shop", f"={APPS}")
    return body.replace("User=shop", "User=nobody").replace("Group=shop", "Group=nogroup")


def verify(place, *bodies):
    """Checks that systemd reads the units without a message."""
    paths = []
    for body in bodies:
        path = place / os.path.basename(file_name(body))
        path.write_text(unit(body))
        # The unit is an instance of a template.
        if "@." in path.name:
            instance = path.with_name(path.name.replace("@.", "@1."))
            instance.symlink_to(path)
            path = instance
        paths.append(path)
    done = analyze("verify", "--man=no", *paths)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def test_units_are_what_systemd_takes(place):
    of_tcp, service, of_unix = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    verify(place, of_tcp, service)
    verify(place, of_unix, service)


def test_unit_with_a_mistake_is_not_taken(place):
    """The check finds a wrong unit."""
    needs("systemd-analyze")
    of_tcp, service, _ = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    with pytest.raises(AssertionError, match="LimitNOFILES"):
        verify(place, of_tcp, service.replace("LimitNOFILE", "LimitNOFILES"))


def test_hardened_service_is_less_exposed(place):
    of_tcp, service, _ = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    more = snippet(PAGE, "test_hardened_service_is_less_exposed", "ini").partition("[Service]\n")[2]
    hardened = service.replace("[Install]", more + "\n[Install]")
    verify(place, of_tcp, hardened)
    figures = []
    for body in (service, hardened):
        (place / "shop.service").write_text(unit(body))
        done = analyze("security", "--offline=true", "--no-pager", place / "shop.service")
        figures.append(float(re.search(r"Overall exposure level for shop.service: ([\d.]+)", done.stdout)[1]))
    assert figures[0] > 8 and figures[1] < 3, figures


def test_processes_with_one_socket(place):
    verify(place, *snippets("processes", "test_processes_with_one_socket", "ini"))


def service_with_a_socket_of_its_own():
    """Returns the page's service, with the lines changed as the page says."""
    service = snippets("processes", "test_processes_with_one_socket", "ini")[1]
    lines = "Requires=shop@%i.socket\nAfter=network.target\n"
    assert lines in (HOWTO / "processes.md").read_text()
    return re.sub(r"Requires=.*\nAfter=.*\n", lines, service).replace("Sockets=shop.socket\nNonBlocking=yes\n", "")


def test_processes_with_sockets_of_their_own(place):
    verify(place, snippet("processes", "test_processes_with_sockets_of_their_own", "ini"), service_with_a_socket_of_its_own())


# --- a systemd of its own ---------------------------------------------------------------------------------------------


class Manager:
    """systemd as the manager of a user's services. It reads the pages' units and runs them.

    systemd requires a machine that was booted with systemd, so it gets its own /run that says so.
    """

    def __init__(self, place):
        self.place = place
        self.units = place / "home/.config/systemd/user"
        self.units.mkdir(parents=True)
        self.env = clean_environment(
            HOME=f"{place}/home", XDG_RUNTIME_DIR="/run/user/0", SYSTEMD_LOG_TARGET="journal", SYSTEMD_LOG_LEVEL="info",
            DBUS_SESSION_BUS_ADDRESS=None, NOTIFY_SOCKET=None)
        # The test receives the journal's messages.
        self.journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.journal.bind(f"{place}/journal")
        self.lines = []
        threading.Thread(target=self.read, daemon=True).start()
        script = (
            "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/systemd/journal /run/user/0 && "
            f"chmod 700 /run/user/0 && ln -s {place}/journal /run/systemd/journal/socket && exec /lib/systemd/systemd --user")
        self.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def read(self):
        """Reads messages in the journal's protocol: one field per line."""
        with contextlib.suppress(OSError):
            while data := self.journal.recv(1 << 16):
                self.lines += re.findall(r"(?m)^MESSAGE=(.*)$", data.decode("utf-8", "replace"))

    def runs(self):
        return self.process.poll() is None and self.ctl("list-units", check=False).returncode == 0

    def ctl(self, *words, check=True):
        done = subprocess.run(
            ["nsenter", "--target", str(self.process.pid), "--mount", "systemctl", "--user", "--no-pager", *words],
            env={**self.env, "SYSTEMD_LOG_TARGET": "console"}, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
        assert not check or done.returncode == 0, (words, done.stderr, self.said())
        return done

    def said(self):
        return "\n".join(self.lines)

    def install(self, body, port=None, **changes):
        """Writes a page's unit into systemd's directory."""
        body = unit(body).replace("EnvironmentFile=-/etc/shop.env\n", f"Environment=VIRTUAL_ENV={sys.prefix}\n")
        # A user's manager cannot change the user. The service's output goes to a file, not to a journal.
        body = re.sub(r"(?m)^(User|Group)=.*\n", "", body).replace("[Service]\n", f"[Service]\nStandardError=append:{self.place}/log\n")
        body = body.replace("shop.wsgi:application", "probe").replace("0.0.0.0:8000", "127.0.0.1:8000")
        for name, value in changes.items():
            body = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", body)
        if port:
            body = body.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        (self.units / os.path.basename(file_name(body))).write_text(body)
        self.ctl("daemon-reload")

    def end(self):
        self.ctl("exit", check=False)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.journal.close()


@pytest.fixture
def manager(place, alone):
    needs("unshare", "nsenter", "systemctl")
    if os.geteuid() != 0 or not os.path.exists("/lib/systemd/systemd"):
        pytest.skip("a systemd of its own needs root, and the package systemd")
    one = Manager(place)
    try:
        # If systemd cannot run here, it ends at once.
        eventually(lambda: one.process.poll() is not None or one.runs(), what="that systemd runs")
        if one.process.poll() is not None:
            pytest.skip(f"systemd cannot run here: {one.said()[-300:]}")
        yield one
    finally:
        if one.process.poll() is None:
            one.end()


class Asking:
    """Clients that send requests without a pause, each on a new connection."""

    def __init__(self, address, clients=4):
        self.address, self.over = address, threading.Event()
        self.answers = []
        self.threads = [threading.Thread(target=self.ask) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def ask(self):
        while not self.over.is_set():
            try:
                with Client(self.address) as client:
                    response = client.get("/sleep?s=0.02", "Connection: close")
                    self.answers.append((response.status, response.get("Server")))
            except (OSError, Closed) as error:
                self.answers.append((repr(error), None))

    def some(self):
        """Waits for some more responses."""
        before = len(self.answers)
        eventually(lambda: len(self.answers) > before + 20, what="that clients are answered")

    def end(self):
        """Returns the statuses so far."""
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        return {status for status, _ in self.answers}


def test_service_of_the_page_restarts_without_losing_a_request(manager):
    of_tcp, service, _ = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    port = free_port()
    manager.install(of_tcp, port)
    manager.install(service)
    manager.ctl("start", "shop.socket", "shop.service")
    asking = Asking(f"http://127.0.0.1:{port}")
    try:
        for _ in range(3):
            asking.some()
            manager.ctl("restart", "shop.service")
        asking.some()
    finally:
        statuses = asking.end()
    assert statuses == {200}, statuses
    # A client that connects while the service is down starts it.
    manager.ctl("stop", "shop.service")
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.get().status == 200


def test_processes_of_the_page_share_one_socket_and_restart_one_by_one(manager):
    of_all, service = snippets("processes", "test_processes_with_one_socket", "ini")
    port = free_port()
    manager.install(of_all, port)
    manager.install(service.replace("maypole shop", "maypole --server-header process-%i shop"))
    manager.ctl("start", "shop.socket", "shop@1.service", "shop@2.service")
    asking = Asking(f"http://127.0.0.1:{port}", clients=16)
    try:
        both = {(200, "process-1"), (200, "process-2")}
        eventually(lambda: set(asking.answers) >= both, what="that both answer")
        for number in (1, 2):
            manager.ctl("restart", f"shop@{number}.service")
            asking.some()
        before = len(asking.answers)
        eventually(lambda: set(asking.answers[before:]) >= both, what="that both answer again")
    finally:
        statuses = asking.end()
    assert statuses == {200}, statuses


def test_processes_of_the_page_have_sockets_of_their_own(manager):
    port = free_port()
    manager.install(snippet("processes", "test_processes_with_sockets_of_their_own", "ini"), port)
    service = service_with_a_socket_of_its_own()
    manager.install(service.replace("maypole shop", "maypole --server-header process-%i shop"))
    manager.ctl("start", *(f"shop@{number}.{kind}" for kind in ("socket", "service") for number in (1, 2)))
    asking = Asking(f"http://127.0.0.1:{port}")
    try:
        eventually(lambda: set(asking.answers) == {(200, "process-1"), (200, "process-2")}, what="that both answer")
    finally:
        asking.end()


def test_hardened_service_serves(manager):
    """Applies the page's restrictions that a user's manager can apply, above all those of system calls."""
    of_tcp, service, _ = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    port = free_port()
    manager.install(of_tcp, port)
    more = snippet(PAGE, "test_hardened_service_is_less_exposed", "ini").partition("[Service]\n")[2]
    # On a developer's machine the program and the tests are in a home directory, which this setting hides.
    # Some machines lack files of /proc that systemd hides, and a user's manager fails without them.
    more = re.sub(r"(?m)^(ProtectHome|PrivateTmp|ProtectKernel\w+)=.*\n", "", more)
    more = more.replace("/var/cache/shop", str(manager.place / "cache"))
    (manager.place / "cache").mkdir()
    more += f"ReadWritePaths={manager.place}\n"
    manager.install(service.replace("[Install]", more + "\n[Install]"))
    manager.ctl("start", "shop.socket", "shop.service")
    pid = int(manager.ctl("show", "--value", "--property=MainPID", "shop.service").stdout)
    with Client(f"http://127.0.0.1:{port}") as client:
        # This needs threads, a temporary file for the body, and one for the response.
        body = bytes(8 << 20)
        assert client.post("/sha", body).status == 200
        assert len(client.get(f"/big?n={8 << 20}").body) == 8 << 20
    with open(f"/proc/{pid}/status") as file:
        status = file.read()
    assert "Seccomp:\t2\n" in status and "NoNewPrivs:\t1\n" in status
    manager.ctl("stop", "shop.socket", "shop.service")
    assert "Result=success" in manager.ctl("show", "shop.service").stdout


def test_service_with_workers_tells_systemd_how_it_is(manager):
    _, service, _ = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    reload = re.search(r"(?m)^ExecReload=.*$", (HOWTO / "systemd.md").read_text())[0]
    service = service.replace("Requires=shop.socket\n", "").replace("[Service]\n", f"[Service]\n{reload}\n")
    manager.install(service.replace("maypole shop", "maypole --bind 127.0.0.1:0 --workers 2 shop"))
    manager.ctl("start", "shop.service")

    def shown(name):
        return manager.ctl("show", "--value", f"--property={name}", "shop.service").stdout.strip()

    assert shown("ActiveState") == "active" and shown("StatusText").startswith("2 of 2 workers serving, ")
    pid = shown("MainPID")
    manager.ctl("reload", "shop.service")
    assert shown("MainPID") == pid
    manager.ctl("stop", "shop.service")
    assert shown("Result") == "success"


def test_directory_is_a_service(manager):
    of_tcp, service, _ = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    public = manager.place / "public"
    public.mkdir()
    (public / "index.html").write_text("<p>index")
    port = free_port()
    manager.install(of_tcp, port)
    manager.install(service.replace("maypole shop.wsgi:application", f"maypole files {public}"))
    manager.ctl("start", "shop.socket", "shop.service")
    # The unit has Type=notify: systemd waits until the server says that it is ready.
    assert manager.ctl("show", "--value", "--property=ActiveState", "shop.service").stdout.strip() == "active"
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.get().body == b"<p>index"
    # The socket stays, and the first client of it starts the service again.
    manager.ctl("stop", "shop.service")
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.get().body == b"<p>index"
    manager.ctl("stop", "shop.socket", "shop.service")
    assert "Result=success" in manager.ctl("show", "shop.service").stdout


def test_missing_program_is_said_as_the_page_has_it(manager):
    _, service, _ = snippets(PAGE, "test_units_are_what_systemd_takes", "ini")
    service = service.replace("Requires=shop.socket\n", "").replace("/srv/shop/venv/bin/maypole", "/nowhere/bin/maypole")
    manager.install(service, Restart="no")
    assert manager.ctl("start", "shop.service", check=False).returncode != 0
    line = "Failed at step EXEC spawning /nowhere/bin/maypole: No such file or directory"
    eventually(lambda: line in manager.said() and "status=203/EXEC" in manager.said(), what="the page's line")


# --- without systemd, the same steps by hand --------------------------------------------------------------------------


class Socket:
    """Makes a listening socket that outlives the processes that serve it, as with systemd."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.address = "http://127.0.0.1:%d" % self.socket.getsockname()[1]

    def start(self, server, application="probe", *options, command=None, **popen):
        """Starts a server as systemd does: the socket is descriptor 3, and variables announce it."""
        def pass_on():
            os.dup2(self.socket.fileno(), 3, inheritable=True)

        script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        command = ["sh", "-c", script, "sh", *map(str, command or [MAYPOLE, *options, application])]
        return server(application, bind=False, command=command, preexec_fn=pass_on, pass_fds=(3,), **popen)


@pytest.fixture
def kept():
    one = Socket()
    yield one
    one.socket.close()


def test_restart_with_systemds_socket_loses_no_request(server, kept):
    statuses, over = [], threading.Event()

    def ask():
        while not over.is_set():
            try:
                with Client(kept.address) as client:
                    statuses.append(client.get("/sleep?s=0.02", "Connection: close").status)
            except (OSError, Closed) as error:
                statuses.append(repr(error))

    running = kept.start(server)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before = len(statuses)
        eventually(lambda before=before: len(statuses) > before + 20, what="that clients are answered")
        running.stop()
        running = kept.start(server)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(statuses) == {200}, {status: statuses.count(status) for status in set(statuses)}


def test_processes_share_one_socket_and_stay_up_while_one_restarts(server, kept):
    processes = [kept.start(server, "probe", "--server-header", name) for name in ("one", "two")]
    answered = set()

    def ask():
        with Client(kept.address) as client:
            answered.add(client.get("/sleep?s=0.1").get("Server"))

    def ask_at_once():
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return answered == {"one", "two"}

    eventually(ask_at_once, what="that both answer")
    with Client(kept.address) as client:
        environ = json.loads(client.get("/environ").body)["environ"]
        assert environ["wsgi.multiprocess"] is True
    processes[0].stop()
    answered.clear()
    ask_at_once()
    assert answered == {"two"}


def test_socket_that_another_process_makes_block_holds_up_nothing(server, kept):
    """O_NONBLOCK belongs to the socket, not to a descriptor, and systemd clears it when it starts one more process."""
    kept.start(server)
    for _ in range(3):
        os.set_blocking(kept.socket.fileno(), True)
        with Client(kept.address) as client:
            assert client.get().status == 200


def test_bind_beside_systemds_socket_is_in_use(kept):
    """Tests the page's statement about MAYPOLE_BIND in the file of settings."""
    port = kept.socket.getsockname()[1]
    done = run("probe", env={"MAYPOLE_BIND": f"127.0.0.1:{port}"})
    assert done.returncode == 3
    assert f"cannot bind 127.0.0.1:{port}: Address already in use" in done.stderr


def test_settings_of_a_file_are_shown_before_a_restart(place):
    settings = snippet(PAGE, "test_files_of_variables_parse", "sh")
    (place / "shop.env").write_text(settings)
    (place / "shop").mkdir()
    (place / "shop/wsgi.py").write_text("def application(environ, start_response):\n    return []\n")
    (place / "maypole").symlink_to(MAYPOLE)
    script = snippet(PAGE, "test_settings_of_a_file_are_shown_before_a_restart", "sh").replace("/etc/", f"{place}/")
    done = subprocess.run(
        ["sh", "-euc", script], cwd=place, capture_output=True, text=True, timeout=3 * PATIENCE,
        env=clean_environment(PATH=f"{place}:/usr/bin:/bin"))
    assert done.returncode == 0, done.stderr
    assert "pool_size = 200  # variable MAYPOLE_POOL_SIZE\n" in done.stdout, done.stdout
    assert re.search(r"(?m)^OK: the settings, .* are usable, and shop\.wsgi:application was imported", done.stdout)


def test_program_with_a_log_format_of_its_own(server, kept, place):
    pytest.importorskip("maypole")
    (place / "shop").mkdir()
    (place / "shop/wsgi.py").write_text((APPS / "probe.py").read_text())
    body = snippet(PAGE, "test_program_with_a_log_format_of_its_own", "python")
    program = place / os.path.basename(file_name(body))
    program.write_text(body)

    running = kept.start(server, command=[sys.executable, program], ready=False, cwd=place)
    with Client(kept.address) as client:
        client.request("GET /sleep?s=1 HTTP/1.1", "X-Request-ID: 7f3a")
        with Client(kept.address) as other:
            eventually(lambda: other.get("/served?p=/sleep").body == b"1", what="that the request runs")
        # The running request gets its response.
        running.signal(signal.SIGTERM)
        assert client.response().status == 200
    assert running.wait() == 0
    running.err.wait(r'(?m)^INFO maypole\.access 7f3a "GET /sleep\?s=1 HTTP/1\.1" 200 \d+ ms$')
