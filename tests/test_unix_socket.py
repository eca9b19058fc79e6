"""Unix sockets: stale and foreign files, the file's owner and mode, and sockets without a file."""

import contextlib
import grp
import os
import pwd
import socket
import stat
import tempfile
import uuid

import pytest

from client import Client
from process import run

NOT_STARTED = 3
KINDS = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}


def not_started(path, *options):
    """Returns the message of a server that cannot bind a path."""
    done = run("--bind", f"unix:{path}", *options, "probe")
    assert done.returncode == NOT_STARTED, (done.returncode, done.stderr)
    return done.stderr


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("kind", KINDS)
def test_socket_of_a_program_that_lives_is_left_alone(kind, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, KINDS[kind]) as other:
        other.bind(str(path))
        if kind != "datagram":
            other.listen(1)
        inode = os.stat(path).st_ino
        assert "in use" in not_started(path)
        assert os.stat(path).st_ino == inode


def test_socket_whose_queue_is_full_is_in_use(tmp_path):
    path = tmp_path / "s"
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(path)):
                break
        assert "in use" in not_started(path)
        assert path.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_socket_of_a_program_that_has_gone_is_replaced(kind, server, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, KINDS[kind]) as old:
        old.bind(str(path))
    assert server("probe", "--bind", f"unix:{path}", bind=False).get().status == 200


def test_server_that_stops_leaves_the_socket_of_its_successor(server, tmp_path):
    path = tmp_path / "s"
    old = server("probe", "--bind", f"unix:{path}", bind=False)
    path.unlink()
    successor = server("probe", "--bind", f"unix:{path}", bind=False)
    old.stop()
    assert path.exists()
    assert successor.get().status == 200
    successor.stop()
    assert not path.exists()


def test_relative_path_is_meant_from_where_it_was_bound(server, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "moves.py").write_text(
        "import os\nos.chdir('elsewhere')\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n    return [os.getcwd().encode()]\n"
    )
    running = server("moves", "--chdir", tmp_path, "--bind", "unix:s", bind=False)
    assert running.address == f"unix:{tmp_path}/s"
    assert running.get().body == str(elsewhere).encode()
    running.stop()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("options", "mode"), [
    ([], 0o777),
    (["--umask", "117"], 0o660),
    (["--unix-socket-mode", "600"], 0o600),
    (["--unix-socket-mode", "0o660", "--umask", "077"], 0o660),
])
def test_socket_has_the_mode_of_the_settings(options, mode, server, tmp_path):
    path = tmp_path / "s"
    before = os.umask(0o027)
    try:
        running = server("probe", "--bind", f"unix:{path}", *options, bind=False)
    finally:
        os.umask(before)
    assert mode_of(path) == mode
    assert running.get().status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(("owner", "user", "group"), [
    ("nobody:nogroup", "nobody", "nogroup"), ("nobody", "nobody", None), (":nogroup", None, "nogroup"), ("12:34", 12, 34),
])
def test_socket_has_the_owner_of_the_settings(owner, user, group, server, tmp_path):
    path = tmp_path / "s"
    server("probe", "--bind", f"unix:{path}", "--unix-socket-owner", owner, "--unix-socket-mode", "660", bind=False)
    uid = pwd.getpwnam(user).pw_uid if isinstance(user, str) else user
    gid = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
    found = os.stat(path)
    assert (found.st_uid, found.st_gid) == (os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid)
    assert mode_of(path) == 0o660


@pytest.mark.parametrize(("owner", "said"), [
    ("no-such-user", "there is no user no-such-user (--unix-socket-owner)"),
    (":no-such-group", "there is no group no-such-group (--unix-socket-owner)"),
])
def test_owner_that_is_unknown_is_said_and_no_file_is_left(owner, said, tmp_path):
    assert said in not_started(tmp_path / "s", "--unix-socket-owner", owner)
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_owner_that_may_not_be_set_is_said_and_no_file_is_left():
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        path = f"{directory}/s"
        try:
            done = run(
                "--bind", f"unix:{path}", "--unix-socket-owner", "root", "probe",
                user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[],
            )
        except PermissionError:
            pytest.skip("the program is where only root may run it")
        assert done.returncode == NOT_STARTED, done.stderr
        assert "cannot give it to root (--unix-socket-owner)" in done.stderr and "not permitted" in done.stderr
        assert not os.path.exists(path)


@pytest.mark.parametrize("options", [["--unix-socket-mode", "888"], ["--unix-socket-owner", "shop:"]])
def test_rights_that_are_none_are_a_usage_error(options):
    done = run(*options, "probe")
    assert done.returncode == 2
    assert "expected" in done.stderr


def test_abstract_socket(server):
    name = f"maypole-{uuid.uuid4()}"
    running = server("probe", "--bind", f"unix:@{name}", bind=False)
    assert running.address == f"unix:@{name}"
    assert running.get().status == 200
    environ = running.get("/environ").body
    for key, value in [("SERVER_NAME", "localhost"), ("SERVER_PORT", "80"), ("REMOTE_ADDR", "")]:
        assert f'"{key}": "{value}"'.encode() in environ
    assert "in use" in run("--bind", f"unix:@{name}", "probe").stderr
    running.stop()
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
        probe.connect("\0" + name)


def test_inherited_abstract_socket_is_shown_as_one(server):
    name = f"maypole-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind("\0" + name)
        inherited.listen(5)
        running = server("probe", "--bind", f"fd://{inherited.fileno()}", bind=False, pass_fds=[inherited.fileno()])
        assert running.address == f"unix:@{name}"
        assert running.get().status == 200


def hello(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]


@pytest.fixture
def package():
    return pytest.importorskip("maypole")


def test_server_in_a_program_has_rights_and_abstract_sockets(package, tmp_path):
    path, name = tmp_path / "s", f"maypole-{uuid.uuid4()}"
    listen = [f"unix:{path}", f"unix:@{name}"]
    with package.Server(hello, listen=listen, unix_socket_mode="600") as server:
        assert mode_of(path) == 0o600
        assert server.addresses == listen
        for address in listen:
            with Client(address) as client:
                assert client.get().body == b"hello"
    server.close()
    assert not path.exists()
    with pytest.raises(ValueError, match="unix_socket_mode"):
        package.Server(hello, listen=listen, unix_socket_mode="9")


def test_adapters_leave_sockets_alone_that_live(package, tmp_path):
    from maypole import serving
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError):
            serving.make_server(f"unix://{path}", 0, hello)
        assert path.exists()
    server = serving.make_server(f"unix://{path}", 0, hello)
    server.server_close()


def test_adapters_take_abstract_sockets(package):
    from maypole import serving
    name = f"maypole-{uuid.uuid4()}"
    server = serving.make_server(f"unix://@{name}", 0, hello)
    try:
        assert server.server_name == f"@{name}"
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect("\0" + name)
    finally:
        server.server_close()
