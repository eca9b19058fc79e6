"""A reload: new code one worker after another, and old code that serves on if the new does not come up."""

import os
import signal
import subprocess

import pytest

from process import MAYPOLE, clean_environment, halt, run
from test_workers import serving

GOOD = '''
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%s"]
'''

BROKEN = {
    "syntax error": ("def application(:\n", "SyntaxError"),
    "import error": ("import nosuch\n", "No module named 'nosuch'"),
    "exception": ("raise ValueError('no database')\n", "no database"),
    "no application": ("nothing = 1\n", "application"),
    "exit": ("import os\nos._exit(7)\n", "exit status 7"),
    "crash": ("import ctypes\nctypes.string_at(0)\n", "signal SIGSEGV"),
}


@pytest.fixture
def shop(server, tmp_path):
    """Starts an application whose code a test can change. The result has `write` and `body`."""
    code = tmp_path / "shop.py"

    def start(*args, text=None, **more):
        code.write_text(text or GOOD % "first")
        running = server("shop:application", *args, cwd=tmp_path, **more)
        running.write = code.write_text
        running.body = lambda: running.get().body.decode()
        return running

    return start


def reload(running, *words):
    """Runs `maypole reload`. The result has returncode, stdout and stderr."""
    return run("reload", *(words or [running.pid]))


def test_reload_brings_new_code_and_says_so(shop):
    running = shop("-w", "2")
    assert running.body() == "first"
    running.write(GOOD % "second")
    ended = reload(running)
    assert (ended.returncode, ended.stdout) == (0, "reloaded: 2 workers with the new settings\n"), ended.stderr
    assert running.body() == "second"


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_new_version_never_takes_the_service_down(shop, kind):
    text, reason = BROKEN[kind]
    running = shop("-w", "2")
    running.write(text)
    ended = reload(running)
    assert ended.returncode == 1
    assert "the old code serves" in ended.stderr and reason in ended.stderr
    assert running.body() == "first"
    running.write(GOOD % "mended")
    assert reload(running).returncode == 0
    assert running.body() == "mended"


def test_new_version_that_hangs_at_its_import_is_ended_with_its_stacks(shop, tmp_path):
    settings = tmp_path / "maypole.toml"
    settings.write_text("[maypole]\nworkers = 1\n")
    running = shop("-c", settings)
    settings.write_text("[maypole]\nworkers = 1\nworker_start_timeout = '500ms'\n")
    running.write("import time\ntime.sleep(1000)\n")
    ended = reload(running)
    assert ended.returncode == 1 and "not started within 500 ms (--worker-start-timeout)" in ended.stderr
    assert running.body() == "first"


def test_factory_that_raises_keeps_the_old_version(server, tmp_path):
    code = tmp_path / "made.py"
    code.write_text("def make():\n    from wsgiref.simple_server import demo_app\n    return demo_app\n")
    running = server("made:make", "-w", "1", "--factory", cwd=tmp_path)
    code.write_text("def make():\n    raise RuntimeError('no settings')\n")
    ended = reload(running)
    assert ended.returncode == 1 and "no settings" in ended.stderr
    assert running.get().status == 200


def test_wrong_settings_change_nothing(shop, tmp_path):
    settings = tmp_path / "maypole.toml"
    settings.write_text("[maypole]\nworkers = 2\n")
    running = shop("-c", settings)
    settings.write_text("[maypole]\nworkers = 'many'\n")
    ended = reload(running)
    assert ended.returncode == 1 and "many" in ended.stderr
    settings.write_text("[maypole]\nworkers = 3\n")
    assert reload(running).stdout == "reloaded: 3 workers with the new settings\n"
    assert running.body() == "first"


def test_address_that_is_added_is_bound_and_one_that_is_left_out_is_let_go(shop, tmp_path):
    settings = tmp_path / "maypole.toml"
    first, second = (f"unix:{tmp_path}/{name}" for name in ("first", "second"))
    settings.write_text(f"[maypole]\nworkers = 1\nbind = ['{first}']\n")
    running = shop("-c", settings, bind=False)
    settings.write_text(f"[maypole]\nworkers = 1\nbind = ['{first}', '{second}']\n")
    assert reload(running).returncode == 0
    running.addresses = [second]
    assert running.body() == "first"
    settings.write_text(f"[maypole]\nworkers = 1\nbind = ['{second}']\n")
    assert reload(running).returncode == 0
    assert not (tmp_path / "first").exists()
    assert running.body() == "first"


def test_clients_in_the_queue_of_an_address_that_is_left_out_are_served(shop, tmp_path):
    settings = tmp_path / "maypole.toml"
    first, second = (f"unix:{tmp_path}/{name}" for name in ("first", "second"))
    settings.write_text(f"[maypole]\nworkers = 1\nbind = ['{first}', '{second}']\n")
    running = shop("-c", settings, bind=False)
    old = serving(running)[1]
    halt(old)
    try:
        running.addresses = [second]
        with running.client() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            running.write(GOOD % "second")
            settings.write_text(f"[maypole]\nworkers = 1\nbind = ['{first}']\n")
            assert reload(running).returncode == 0
            assert client.response().body == b"second"
    finally:
        os.kill(old, signal.SIGCONT)


def test_reload_by_a_file_with_the_process_number(shop, tmp_path):
    running = shop("-w", "1")
    (tmp_path / "pid").write_text(f"{running.pid}\n")
    assert reload(running, "--pid", tmp_path / "pid").returncode == 0
    assert reload(running, "--pid", tmp_path / "nosuch").returncode == 1
    assert reload(running, "--force").returncode == 2


def test_reloads_at_the_same_time_all_learn_the_outcome(shop):
    running = shop("-w", "2")
    command, env = [MAYPOLE, "reload", str(running.pid)], clean_environment()
    started = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE) for _ in range(3)]
    for process in started:
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"reloaded: 2 workers with the new settings\n")


def test_client_that_stays_connected_is_not_closed_by_reloads(shop):
    running = shop("-w", "2")
    with running.client() as client:
        for count in range(5):
            running.write(GOOD % f"version {count}")
            assert reload(running).returncode == 0
            assert client.get("/").body.decode() == f"version {count}"


def test_signal_reloads_too(shop):
    running = shop("-w", "1")
    running.write(GOOD % "second")
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 1 worker ")
    assert running.body() == "second"
    os.kill(running.pid, 0)
