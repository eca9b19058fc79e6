"""`maypole migrate`: real configurations of other servers become TOML files that Maypole reads."""

import re
import tomllib

import pytest

from process import ROOT, run

CONFIGURATIONS = ROOT / "tests" / "configurations"

# For each file: settings in its TOML file, and the names in the comments at its end.
EXPECTED = {
    "gthread.conf.py": ({"workers": 2, "threads": 4, "preload": True, "umask": "007", "log_level": "info"}, "timeout"),
    "cores.conf.py": ({"workers": 2, "bind": ["0.0.0.0:8080"], "worker_tmp_dir": "/dev/shm"}, "timeout threads"),
    "hooks.conf.py": ({"application": "probe", "bind": ["127.0.0.1:8000", "[::1]:8000"]}, "worker_int threads"),
    "asynchronous.conf.py": ({"workers": 4, "forwarded_allow_ips": ["*"]}, "worker_class secure_scheme_headers"),
    "account.conf.py": ({"user": "www-data", "raw_env": ["SHOP_MODE=production", "SHOP_LIST=a,b", "SCRIPT_NAME=/shop"],
                         "prefix": "/shop"}, "threads"),
    "metrics.conf.py": (
        {"reload": False, "bind": [":8000"], "statsd_host": "localhost:8125", "statsd_prefix": "shop"},
        "worker_class",
    ),
    "logs.conf.py": (
        {"threads": 8, "log_config": str(CONFIGURATIONS / "logs.conf.py")}, "logger_class max_request keep_alives",
    ),
    "shop.ini": (
        {
            "application": "shop.wsgi:application",
            "chdir": "/srv/shop",
            "bind": ["unix:/srv/shop/shop.sock"],
            "unix_socket_mode": "660",
            "unix_socket_owner": "www-data:www-data",
            "raw_env": ["DJANGO_SETTINGS_MODULE=shop.settings"],
            "error_logfile": "/var/log/uwsgi/shop.log",
            "max_requests": 5000,
        },
        "home master enable-threads vacuum die-on-term lazy-apps",
    ),
    "container.ini": (
        {"application": "app/wsgi.py:app", "workers": 4, "max_worker_memory": "512MiB", "worker_lifetime": "3600"},
        "master lazy-apps single-interpreter need-app disable-logging thunder-lock stats",
    ),
    "api.yaml": (
        {"application": "api.app:create_app()", "workers": 2, "pid": "/run/api.pid"},
        "master touch-reload log-format no-such-option lazy-apps",
    ),
    "legacy.xml": (
        {"application": "/srv/legacy/run.py", "workers": 4, "proc_name": "legacy", "pythonpath": ["/srv/legacy"]},
        "master daemonize lazy-apps",
    ),
    "Procfile": (
        {"application": "shop.wsgi", "workers": 2, "request_timeout": "120", "raw_env": ["PYTHONUNBUFFERED=1"]},
        "--bind",
    ),
    "Procfile.uwsgi": ({"application": "shop:app", "bind": [":8080"], "workers": 4}, "master die-on-term lazy-apps"),
}


def migrated(*words, **more):
    done = run("migrate", *words, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def remarked(text):
    """Returns the names in the comments below the settings."""
    _, _, remarks = text.partition("# These settings have no effect here, or a different one:\n")
    return re.findall(r"^# (?:line \d+: )?([\w-]+): ", remarks, re.M)


def test_every_configuration_has_its_expectation():
    assert {path.name for path in CONFIGURATIONS.iterdir() if path.is_file()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_configuration_becomes_a_file_that_is_read(name, tmp_path):
    expected, names = EXPECTED[name]
    text = migrated(name, cwd=CONFIGURATIONS, env={"WORKERS_MAX": "2"})
    settings = tomllib.loads(text)["maypole"]
    assert {key: settings.get(key) for key in expected} == expected
    assert remarked(text) == names.split()
    # The directory of the service is not on this machine.
    (tmp_path / "maypole.toml").write_text(re.sub("^chdir = .*\n", "", text, flags=re.M))
    words = [] if "application" in settings else ["probe"]
    done = run("--print-config", "-c", "maypole.toml", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+) = .*  # maypole\.toml:\d+", done.stdout, re.M)
    assert set(found) == set(settings) - {"chdir"}


@pytest.mark.parametrize(
    "words, settings, names",
    [
        (["gunicorn -w4 -b :80 -c conf.py a:b"], {"workers": 4, "bind": [":80"], "application": "a:b"}, "-c"),
        (["gunicorn", "a:b", "--workers=$N", "-D"], {"application": "a:b"}, "--workers -D"),
        (["cd /srv && exec /opt/bin/gunicorn --preload a:b && echo"], {"application": "a:b", "preload": True}, ""),
        (["gunicorn --backlog 0 a"], {"application": "a"}, "backlog"),
        (["uwsgi --http :80 -p 3 --wsgi-file=a.py --lazy-apps"], {"bind": [":80"], "workers": 3, "application": "a.py"}, "lazy-apps"),
        (["uwsgi --mount /a=a.py --mount api.example=api:app --mount=/b=b --callable app --manage-script-name"],
         {"mount": ["/a=a.py:app", "/b=b:app"], "virtual_host": ["api.example=api:app"]}, "manage-script-name"),
        (["uwsgi", "uwsgi.ini"], {}, "ini"),
        (["gunicorn --certfile c.pem --keyfile k.pem --cert-reqs 1 --ca-certs ca.pem a"],
         {"certfile": ["c.pem"], "keyfile": ["k.pem"], "cert_reqs": "1", "ca_certs": "ca.pem", "application": "a"}, ""),
        (["uwsgi --https 127.0.0.1:443,c.pem,k.pem,HIGH,!ca.pem --wsgi-file a.py"],
         {"bind": ["https://127.0.0.1:443"], "certfile": ["c.pem"], "keyfile": ["k.pem"], "ca_certs": "ca.pem",
          "cert_reqs": "required", "application": "a.py"}, ""),
    ],
)
def test_command_line_becomes_a_file(words, settings, names):
    text = migrated(*words)
    assert tomllib.loads(text)["maypole"] == settings
    assert remarked(text) == names.split()


INI = """\ufeff[uwsgi]
ini = :base
socket = app.sock
processes = 4 # for two processors
procesess = 4
req-logger = file:/var/log/shop/access.log
logger = syslog:shop
daemonize = /var/log/shop/uwsgi.log
post-buffering = 1
env = SHOP=$(SHOP)

[base]
module = shop:app ; the callable
http = :$(PORT)
threads = 2
[production]
ini = :base
threads = 8
"""


def test_ini_file_as_users_write_it_becomes_a_file(tmp_path):
    (tmp_path / "uwsgi.ini").write_text(INI, encoding="utf-8")
    text = migrated("uwsgi.ini", cwd=tmp_path)
    assert tomllib.loads(text)["maypole"] == {
        "application": "shop:app",
        "threads": 2,
        "bind": ["unix:app.sock"],
        "workers": 4,
        "access_logfile": "/var/log/shop/access.log",
        "error_logfile": "/var/log/shop/uwsgi.log",
    }
    assert remarked(text) == "http procesess logger daemonize post-buffering env lazy-apps".split()
    assert "procesess: uWSGI has no such option; did you mean 'processes'?" in text
    other = migrated("uwsgi.ini:production", cwd=tmp_path)
    assert tomllib.loads(other)["maypole"] == {"application": "shop:app", "threads": 8}


def test_conditions_on_the_environment_are_decided(tmp_path):
    lines = ["[uwsgi]", "if-env = SHOP_PORT", "http = :9000", "if-env = SHOP_TEST", "threads = 1", "endif =", "endif ="]
    lines += ["if-not-env = SHOP_PORT", "http = :8000", "endif", "if-env = SHOP_PORT=1", "threads = 2", "endif"]
    lines += ["if-exists = /gone", "processes = 2", "endif", "set-placeholder = base=/srv/shop", "logto = %(base)/log"]
    (tmp_path / "uwsgi.ini").write_text("\n".join(lines))
    for env, bind, words in [({}, ":8000", "not set"), ({"SHOP_PORT": "2"}, ":9000", "set")]:
        text = migrated("uwsgi.ini", cwd=tmp_path, env=env)
        assert tomllib.loads(text)["maypole"] == {"bind": [bind], "workers": 2, "error_logfile": "/srv/shop/log"}
        flat = text.replace("\n#  ", "")
        assert f"line 2: if-env: the variable SHOP_PORT is {words} here, so that the lines up to endif are " in flat
        assert "if-exists: " in flat and "endif: " not in text
    assert "the variable SHOP_PORT is not 1 here" in flat


def test_file_that_cannot_be_served_is_migrated_all_the_same(tmp_path):
    lines = ["daemon = True", "worker_class = 'uvicorn.workers.UvicornWorker'", "workers = 2"]
    (tmp_path / "gunicorn.conf.py").write_text("\n".join(lines))
    text = migrated("gunicorn.conf.py", cwd=tmp_path)
    assert tomllib.loads(text)["maypole"] == {"workers": 2}
    assert remarked(text) == ["daemon", "worker_class"]
    sentence = "uvicorn.workers.UvicornWorker serves applications that are not WSGI"
    assert sentence in text and sentence in migrated("gunicorn", "-k", "uvicorn.workers.UvicornWorker", "shop:app")


def test_file_that_is_none_of_these_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "empty.ini").write_text("[other]\nprocesses = 4\n")
    (tmp_path / "Procfile").write_text("web: node server.js\n")
    for name, sentence in [
        ("gone.ini", "cannot read gone.ini: No such file or directory\n"),
        ("notes.txt", "cannot tell what notes.txt is: expected gunicorn.conf.py, uwsgi.ini, uwsgi.yaml, uwsgi.xml, a "),
        ("empty.ini", "empty.ini has no settings of uWSGI\n"),
        ("Procfile", "Procfile has no command of gunicorn or uWSGI\n"),
    ]:
        done = run("migrate", name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {sentence}"), done.stderr


def test_application_may_be_called_migrate():
    assert "application = migrate  # command line" in run("migrate", "--print-config").stdout
