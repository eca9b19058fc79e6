"""docs/howto/several-applications.md: `--mount` and `--virtual-host` choose the application by path and by host.

Which path and which host fits is tested in src/sites.rs. These tests show that processes, reloads, hooks, logs,
metrics and programs know all applications.
"""

import json
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from process import clean_environment, eventually, run
from running import program
from status import Status

SITES = """
    import json

    def made(name):
        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            said = [name, environ["SCRIPT_NAME"], environ["PATH_INFO"]]
            return [json.dumps(said).encode()]
        return application

    main, admin, api = made("main"), made("admin"), made("api")
"""


@pytest.fixture
def sites(tmp_path):
    """Makes a directory with the module `sites`, which has several applications."""
    (tmp_path / "sites.py").write_text(textwrap.dedent(SITES))
    return tmp_path


def said(running, path, host="test.example", *fields):
    """Returns what the application says, or the status of another response than 200."""
    with running.client() as client:
        client.request(f"GET {path} HTTP/1.1", *fields, host=host)
        response = client.response()
        return json.loads(response.body) if response.status == 200 else response.status


def test_path_and_host_choose_the_application(server, sites):
    running = server("sites:main", "--chdir", sites, "--mount", "/admin=sites:admin", "--mount", "/admin/api=sites:made('deep')",
                     "--virtual-host", "api.example=sites:api", "--prefix", "/p", "--access-logfile", "-",
                     "--access-logformat", "%(s)s %(U)s", "--status-bind", "127.0.0.1:0")
    assert said(running, "/p/") == ["main", "/p", "/"]
    assert said(running, "/p/admin/users") == ["admin", "/p/admin", "/users"]
    assert said(running, "/p/%61dmin/api/v%31") == ["deep", "/p/admin/api", "/v1"]
    assert said(running, "/p/admin/x", "api.example:80") == ["api", "/p", "/admin/x"]
    assert said(running, "/p/x", "proxied.example", "X-Forwarded-Host: API.example") == ["api", "/p", "/x"]
    assert said(running, "/admin") == 404
    running.out.wait(r"200 /p/%61dmin/api/v%31\n")
    running.out.wait(r"404 /admin\n")
    status = Status(running)
    eventually(lambda: status.metric("maypole_requests_begun_total") == 5, what="that all calls are counted")


def test_service_without_a_main_application_with_workers_and_a_file(server, sites):
    (sites / "sites.toml").write_text(textwrap.dedent("""
        [maypole]
        workers = 2
        preload = true

        [maypole.mount]
        "/admin" = "sites:admin"

        [maypole.virtual-host]
        "api.example" = "sites:api"
    """))
    running = server("sites.toml", "--config", cwd=sites)
    assert said(running, "/admin") == ["admin", "/admin", ""]
    assert said(running, "/x", "api.example") == ["api", "", "/x"]
    assert said(running, "/") == 404


def test_application_that_cannot_be_imported_ends_the_start(sites):
    (sites / "broken.py").write_text("raise RuntimeError('not today')\n")
    for option in (("--mount", "/x=broken:app"), ("--virtual-host", "x.example=broken:app")):
        done = run("--bind", "127.0.0.1:0", *option, "sites:main", cwd=sites)
        assert done.returncode == 4 and re.search(r"importing 'broken' failed:\nTraceback[^$]*not today", done.stderr), done.stderr
    done = run("--check-config", "--mount", "/x=sites:admin", "sites:main", cwd=sites)
    assert (done.returncode, "sites:main, sites:admin were imported" in done.stdout) == (0, True), done
    done = run("--mount", "/x=sites:admin", "--mount", "/x/=sites:api", cwd=sites)
    assert (done.returncode, "--mount /x is given twice" in done.stderr) == (2, True), done.stderr


def test_reload_takes_new_code_of_every_application(server, sites):
    running = server("sites:main", "--chdir", sites, "--mount", "/admin=sites:admin", "--workers", "1")
    assert said(running, "/admin/x") == ["admin", "/admin", "/x"]
    text = (sites / "sites.py").read_text()
    (sites / "sites.py").write_text(text.replace('made("admin")', 'made("new")'))
    running.signal(signal.SIGHUP)
    eventually(lambda: said(running, "/admin/x") == ["new", "/admin", "/x"], what="that the new code serves")
    assert said(running, "/") == ["main", "", "/"]


def test_hook_finds_every_application(server, sites):
    (sites / "hooks.py").write_text(textwrap.dedent("""
        def post_worker_init(worker):
            import sites
            assert worker.wsgi is sites.main
            assert worker.mounts == {"/admin": sites.admin} and worker.virtual_hosts == {"*.example": sites.api}
            worker.log.info("found all")
    """))
    running = server("sites:main", "--chdir", sites, "--mount", "/admin/=sites:admin", "--virtual-host", "*.example=sites:api",
                     "--workers", "1", "--hooks", "hooks.py")
    running.err.wait("found all")


PROGRAM = """
    import json, sys, threading, urllib.request
    import maypole
    from sites import admin, main

    if sys.argv[1] == "server":
        with maypole.Server(main, "127.0.0.1:0", mounts={"/admin": admin}) as server:
            for path in ["/admin/x", "/x"]:
                print(urllib.request.urlopen(server.addresses[0] + path).read().decode())
        for mounts in [{"admin": main}, {"/": main}, {"/x": main, "/x/": main}]:
            try:
                maypole.Server(main, "127.0.0.1:0", mounts=mounts)
            except ValueError as error:
                print(error)
    else:
        sys.exit(maypole.serve(main, "127.0.0.1:0", workers=int(sys.argv[1]) or None, access_logfile="none",
                               mounts={"/admin": admin, "/named": "sites:api"}))
"""


def test_server_in_a_program_has_mounts(sites):
    (sites / "program.py").write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run([sys.executable, "program.py", "server"], cwd=sites, env=clean_environment(), capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        '["admin", "/admin", "/x"]',
        '["main", "", "/x"]',
        "invalid path 'admin' in mounts: expected a path that begins with a slash, such as /shop",
        "mount / names the application of all paths, and so does MODULE: keep one",
        "mount /x is given twice",
    ]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_serve_has_mounts_of_objects_and_names(server, sites, workers):
    (sites / "program.py").write_text(textwrap.dedent(PROGRAM))
    running = program(server, "program.py", workers, cwd=sites)
    assert said(running, "/admin/x") == ["admin", "/admin", "/x"]
    assert said(running, "/named/x") == ["api", "/named", "/x"]
    assert said(running, "/x") == ["main", "", "/x"]
