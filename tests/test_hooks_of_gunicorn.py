"""The hooks of a gunicorn.conf.py that is read as it is (`-c`): which are called, and what happens if one fails."""

import signal

import pytest

FAILS = "raise OSError('no {name}')"
#: Their failure does not disturb the service, and what makes the service call them.
HARMLESS = {
    "when_ready(server)": None,
    "nworkers_changed(server, new_value, old_value)": (signal.SIGTTIN, r"worker 2 \(pid \d+\) serves"),
    "child_exit(server, worker)": (signal.SIGTTOU, r"worker 2 \(pid \d+\) has ended"),
    "on_reload(server)": (signal.SIGHUP, "reloaded: 1 worker"),
    "worker_exit(server, worker)": None,
    "on_exit(server)": None,
}
#: The options, and the hook whose failure prevents the start.
FATAL = [
    ((), "on_starting(server)"),
    ((), "post_fork(server, worker)"),
    ((), "post_worker_init(worker)"),
    (("--preload",), "pre_fork(server, worker)"),
    (("--preload",), "post_fork(server, worker)"),
]
#: The hooks that are never called, and what the log says instead.
ABSENT = {
    "pre_request(worker, req)": "write a WSGI middleware",
    "post_request(worker, req, environ, resp)": "write a WSGI middleware",
    "worker_int(worker)": "leaves SIGINT and SIGQUIT to the supervisor",
    "worker_abort(worker)": "writes the stacks of its threads to the error log",
    "ssl_context(config, default_ssl_context_factory)": "options take the place of the function",
}


def name_of(hook):
    return hook.partition("(")[0]


@pytest.fixture
def file(tmp_path):
    def write(*hooks):
        path = tmp_path / "gunicorn.conf.py"
        functions = (f"def {hook}: {FAILS.format(name=name_of(hook))}\n" for hook in hooks)
        path.write_text("workers = 1\n" + "".join(functions))
        return path

    return write


def test_hooks_that_fail_are_logged_and_the_service_goes_on(server, file):
    running = server("probe", "-c", file(*HARMLESS, "pre_fork(server, worker)"))
    for cause in filter(None, HARMLESS.values()):
        start = len(running.err.text())
        running.signal(cause[0])
        running.err.wait(cause[1], start=start)
        assert running.get().status == 200
    running.stop()
    text = running.err.text()
    for hook in [*HARMLESS, "pre_fork(server, worker)"]:
        name = name_of(hook)
        assert f"the hook {name} failed:\nTraceback" in text and f"OSError: no {name}\n" in text, f"{name}:\n{text}"
    assert "unexpectedly" not in text


@pytest.mark.parametrize(("options", "hook"), FATAL, ids=lambda value: value if isinstance(value, str) else "".join(value))
def test_hook_that_fails_at_the_start_prevents_it(server, file, options, hook):
    running = server("probe", "-c", file(hook), *options, ready=False)
    assert running.wait() == 3
    text, name = running.err.text(), name_of(hook)
    assert f"the hook {name} failed:" in text and f"OSError: no {name}" in text, text
    assert " cannot start: " in text or " cannot be started: " in text, text


def test_hooks_that_are_never_called_are_named_with_what_to_use(server, file):
    running = server("probe", "-c", file(*ABSENT))
    assert running.get().status == 200
    running.stop()
    text = running.err.text()
    for line, (hook, instead) in enumerate(ABSENT.items(), 2):
        assert f"  line {line}: {name_of(hook)}: " in text and instead in text, f"{hook}:\n{text}"
    assert "Traceback" not in text
