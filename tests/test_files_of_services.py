"""Files, mounts and named files in every kind of service: alone, with workers, preloaded, and through reloads."""

import signal
import textwrap

import pytest

from process import eventually

SHOP = """
    def made(name):
        def application(environ, start_response):
            fields = [("Content-Type", "text/plain")]
            if environ["PATH_INFO"] == "/file":
                fields.append(("X-Sendfile", "report.txt"))
            start_response("200 OK", fields)
            return [name.encode()]
        return application

    main, admin = made("main 1"), made("admin 1")
"""
SETTINGS = """
    [maypole]
    application = "shop:main"
    mount = "/admin=shop:admin"
    static = ["/static={static}", "/admin/static={static}"]
    sendfile_root = "{media}"
"""
KINDS = {
    "alone": [],
    "workers": ["-w", "2"],
    "preload": ["-w", "2", "--preload"],
    "development": ["--reload", "--reload-engine", "poll"],
    "development-workers": ["--reload", "--reload-engine", "poll", "-w", "2"],
}


@pytest.fixture
def project(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.css").write_text(f"css {name}")
        (tmp_path / f"media-{name}").mkdir()
        (tmp_path / f"media-{name}" / "report.txt").write_text(f"report {name}")
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    set_directories(tmp_path, "one")
    return tmp_path


def set_directories(project, name):
    (project / "app.toml").write_text(textwrap.dedent(SETTINGS.format(static=name, media=f"media-{name}")))


def seen(running):
    paths = ["/static/a.css", "/admin/static/a.css", "/file", "/admin/file", "/", "/admin/x"]
    return [running.get(path).body.decode() for path in paths]


def expected(directory, code):
    return [f"css {directory}"] * 2 + [f"report {directory}"] * 2 + [f"main {code}", f"admin {code}"]


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_mounts_follow_a_reload(server, project, kind):
    running = server("app.toml", *KINDS[kind], "--config", cwd=project)
    assert seen(running) == expected("one", 1)
    # Changed files are served at once; the application is not asked, nor loaded again.
    (project / "one" / "a.css").write_text("css new")
    assert seen(running)[:2] == ["css new"] * 2
    (project / "one" / "a.css").write_text("css one")
    code = (project / "shop.py").read_text()
    (project / "shop.py").write_text(code.replace('"main 1"', '"main 2"').replace('"admin 1"', '"admin 2"'))
    set_directories(project, "two")
    if not kind.startswith("development"):
        running.signal(signal.SIGHUP)
    eventually(lambda: seen(running) == expected("two", 2), what="that the new settings and the new code serve")


@pytest.mark.parametrize("kind", ["workers", "development"])
def test_directory_that_is_gone_keeps_the_old_settings(server, project, kind):
    running = server("app.toml", *KINDS[kind], "--config", cwd=project)
    set_directories(project, "none")
    if kind == "workers":
        running.signal(signal.SIGHUP)
    running.err.wait("the old code serves: --static /static=none: it must be a directory, and none does not exist")
    assert seen(running) == expected("one", 1)
    set_directories(project, "two")
    if kind == "workers":
        running.signal(signal.SIGHUP)
    eventually(lambda: seen(running) == expected("two", 1), what="that the mended settings serve")
