"""Configuration files: TOML and `pyproject.toml`; what takes precedence, and what an error names."""

import pytest

from process import APPS, run

SHOP = """
[maypole]
application = "probe"
bind = ["127.0.0.1:0"]
pool-size = 7
keep_alive = 2.5
umask = 0o027
proxy_protocol = "off"
raw_env = { NAME = "a,b", OTHER = "c" }
factory = false
"""


def settings(*args, **more):
    """Returns value and source of each setting that is no default, as `--print-config` prints them."""
    done = run("--print-config", *args, **more)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" = ") for line in done.stdout.splitlines() if "." not in line.split(" = ")[0]]
    found = {name: tuple(rest.rsplit("  # ", 1)) for name, _, rest in lines}
    return {name: pair for name, pair in found.items() if not pair[1].startswith("default")}


def refused(*args, **more):
    done = run(*args, **more)
    assert (done.returncode, done.stdout) == (2, ""), done
    return done.stderr


def test_file_gives_the_settings_that_neither_line_nor_environment_give(tmp_path):
    (tmp_path / "shop.toml").write_text(SHOP)
    assert settings("-c", "shop.toml", cwd=tmp_path) == {
        "application": ("probe", "shop.toml:3"),
        "bind": ("127.0.0.1:0", "shop.toml:4"),
        "pool_size": ("7", "shop.toml:5"),
        "keep_alive": ("2500ms", "shop.toml:6"),
        "umask": ("027", "shop.toml:7"),
        "proxy_protocol": ("off", "shop.toml:8"),
        "raw_env": ("NAME=a,b,OTHER=c", "shop.toml:9"),
        "factory": ("false", "shop.toml:10"),
        "config": ("shop.toml", "command line"),
    }
    env = {"MAYPOLE_KEEP_ALIVE": "3", "MAYPOLE_CONFIG": "shop.toml", "PORT": "5000", "WEB_CONCURRENCY": "2"}
    found = settings("-b", "127.0.0.1:1", "-e", "A=b", "other", cwd=tmp_path, env=env)
    assert found["application"] == ("other", "command line")
    assert found["bind"] == ("127.0.0.1:1", "command line")
    assert found["raw_env"] == ("A=b", "command line")
    assert found["keep_alive"] == ("3s", "variable MAYPOLE_KEEP_ALIVE")
    assert found["pool_size"] == ("7", "shop.toml:5")
    assert found["workers"] == ("2", "variable WEB_CONCURRENCY")
    assert settings("-c", "shop.toml", "--port", "1", cwd=tmp_path)["bind"] == ("127.0.0.1:1", "command line")


def test_project_file_is_read_if_it_has_the_table(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'maypole-shop'\n")
    assert settings("probe", cwd=tmp_path) == {"application": ("probe", "command line")}
    project.write_text("[tool.maypole]\npool_size = 5\n[tool.other]\nx = 1\n")
    assert settings("probe", cwd=tmp_path)["pool_size"] == ("5", "pyproject.toml:2")
    found = settings("probe", "--chdir", tmp_path, cwd=APPS)
    assert found["pool_size"] == ("5", "pyproject.toml:2")
    assert "pool_size" not in settings("probe", "-c", "none", cwd=tmp_path)
    assert "pool_size" not in settings("probe", cwd=tmp_path, env={"MAYPOLE_CONFIG": "none"})
    (tmp_path / "shop.toml").write_text("[maypole]\nthreads = 3\n")
    assert set(settings("probe", "-c", "shop.toml", cwd=tmp_path)) == {"application", "config", "threads"}


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("pool_sise = 3", "there is no setting 'pool_sise'; did you mean 'pool_size'?"),
        ("pool_size = 0", "invalid value '0' for pool_size: expected a whole number from 1 to 100000"),
        ("harakiri = 3", "there is no setting 'harakiri' (uWSGI): Maypole sets no time limit on the application"),
        ("workers = true", "'workers' takes a number or a string, not true or false"),
        ("preload = 1", "'preload' takes true or false, not a number"),
        ("bind = 8000", "'bind' takes a string, not a number"),
        ("bind = ['8000']", "invalid value '8000' for bind: "),
        ("threads = [1]", "'threads' takes one value, not an array"),
        ("raw_env = { A = 1 }", "'raw_env.A' takes a string"),
        ("check_config = true", "'check_config' is an option of the command line only"),
        ("x = ", "string values must be quoted"),
    ],
)
def test_error_names_the_file_and_the_line(tmp_path, line, sentence):
    (tmp_path / "shop.toml").write_text(f"[maypole]\n\n{line}\n")
    text = refused("-c", "shop.toml", "probe", cwd=tmp_path)
    assert text.startswith(f"error: shop.toml:3: {sentence}") and len(text.splitlines()) == 1, text


def test_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "empty.toml").write_text("[other]\n")
    for name, sentence in [
        ("gone.toml", "cannot read settings from gone.toml: No such file or directory\n"),
        ("empty.toml", "empty.toml: there is no table [maypole], which has the settings\n"),
        ("uwsgi.ini", "cannot read settings from uwsgi.ini: `maypole migrate uwsgi.ini` makes a TOML file of it\n"),
    ]:
        assert refused("-c", name, "probe", cwd=tmp_path) == f"error: {sentence}"
    (tmp_path / "pyproject.toml").write_text("[tool.maypole]\nx\n")
    assert refused("probe", cwd=tmp_path).startswith("error: pyproject.toml:2: ")


def test_server_says_which_file_it_has_read(server, tmp_path):
    (tmp_path / "shop.toml").write_text(f'[maypole]\nchdir = "{APPS}"\nbind = "127.0.0.1:0"\nserver_header = "shop"\n')
    started = server("probe", "-c", "shop.toml", cwd=tmp_path, bind=False)
    assert "settings from shop.toml\n" in started.err.text()
    assert started.get().get("server") == "shop"
