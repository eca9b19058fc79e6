"""Real applications from PyPI: Flask, Django with its admin, httpbin, Pyramid, OpenStack placement."""

import contextlib
import gzip
import json
import pathlib
import re
import sqlite3
import subprocess
import sys
import threading
from urllib.parse import urlencode

import pytest

from process import APPS, EXAMPLES, clean_environment

FORM = "Content-Type: application/x-www-form-urlencoded"


def multipart(name, filename, data, boundary="xXxBOUNDARYxXx"):
    body = (f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n").encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return body, f"Content-Type: multipart/form-data; boundary={boundary}"


def clean(server):
    assert "Traceback" not in server.err.text(), server.err.text()[-3000:]


# --- Flask --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flask(module_server):
    pytest.importorskip("flask")
    return module_server("flask_app:app", cwd=EXAMPLES)


def test_flask(flask):
    assert flask.get().body == b"Hello from Flask\n"
    assert json.loads(flask.get("/user/J%C3%BCrgen", "User-Agent: me").body) == {"name": "J\xfcrgen", "agent": "me"}
    assert json.loads(flask.post("/form", urlencode({"a": "1 2", "b": "\xe9"}).encode(), FORM).body) == {"a": ["1 2"], "b": ["\xe9"]}
    body, kind = multipart("file", "f.bin", bytes(range(256)) * 4000)
    assert json.loads(flask.post("/file", body, kind).body) == {"name": "f.bin", "bytes": 1024000}
    assert flask.get("/nowhere").status == 404
    assert flask.post("/", b"x").status == 405
    clean(flask)


def test_flask_chunked_upload(flask):
    body, kind = multipart("file", "f.bin", b"x" * 100000)
    with flask.client() as client:
        client.request("POST /file HTTP/1.1", kind, "Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert json.loads(client.response().body)["bytes"] == 100000


# --- Django -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def django(module_server, tmp_path_factory):
    pytest.importorskip("django")
    return module_server("django_app", cwd=EXAMPLES, env={"DJANGO_DATABASE": str(tmp_path_factory.mktemp("django") / "db")})


class Browser:
    """Keeps the cookies of one visitor, and fills in Django's token."""

    def __init__(self, server):
        self.client = server.client()
        self.host = "127.0.0.1"
        self.cookies = {}

    def ask(self, method, path, form=None):
        fields = [f"Referer: http://{self.host}/"]
        if self.cookies:
            fields.append("Cookie: " + "; ".join(f"{k}={v}" for k, v in self.cookies.items()))
        body = b""
        if form is not None:
            body = urlencode(form).encode()
            fields += [FORM, f"Content-Length: {len(body)}"]
        response = self.client.request(f"{method} {path} HTTP/1.1", *fields, host=self.host, body=body).response(method)
        for cookie in response.all("Set-Cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response

    def submit(self, path, **form):
        page = self.ask("GET", path)
        assert page.status == 200, page
        token = re.search(rb'name="csrfmiddlewaretoken" value="([^"]+)"', page.body)[1].decode()
        return self.ask("POST", path, {"csrfmiddlewaretoken": token, **form})


def test_django_admin(django):
    browser = Browser(django)
    first = browser.ask("GET", "/admin/")
    assert first.status == 302 and first.get("Location").startswith("/admin/login/")
    wrong = browser.submit("/admin/login/?next=/admin/", username="admin", password="wrong", next="/admin/")
    assert wrong.status == 200 and b"Please enter the correct" in wrong.body
    login = browser.submit("/admin/login/?next=/admin/", username="admin", password="admin", next="/admin/")
    assert (login.status, login.get("Location")) == (302, "/admin/")
    index = browser.ask("GET", "/admin/")
    assert index.status == 200 and b"Site administration" in index.body
    added = browser.submit("/admin/auth/user/add/", username="zo\xeb", password1="kZ9-wqpv-33", password2="kZ9-wqpv-33", usable_password="true")
    assert added.status == 302, added
    listing = browser.ask("GET", "/admin/auth/user/")
    assert "zo\xeb".encode() in listing.body
    assert json.loads(django.get("/users").body)["users"] == ["admin", "zo\xeb"]
    assert browser.ask("POST", "/admin/logout/", {"x": "y"}).status == 403        # The form is sent without the token.
    clean(django)


def test_workers_of_the_django_example_share_a_new_database(server, tmp_path):
    pytest.importorskip("django")
    started = server("django_app", "--workers", "4", cwd=EXAMPLES, env={"DJANGO_DATABASE": str(tmp_path / "db")})
    assert json.loads(started.get("/users").body)["users"] == ["admin"]
    clean(started)


# --- SQLite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "example, variable, table", [("chat_flask", "CHAT_FILE", "messages"), ("vote_websocket", "VOTES_FILE", "votes")])
def test_worker_can_start_while_another_one_reads_the_file(example, variable, table, tmp_path):
    pytest.importorskip("flask")
    pytest.importorskip("maypole.sse")
    file = tmp_path / "file.sqlite3"
    start = [sys.executable, "-c", f"import {example}"]
    environment = clean_environment(**{variable: str(file)})
    subprocess.run(start, cwd=EXAMPLES, env=environment, check=True, timeout=60)
    with contextlib.closing(sqlite3.connect(file)) as other:
        # SQLite can change this mode only while there is no reader, and does not wait for one.
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN")
        other.execute(f"SELECT count(*) FROM {table}").fetchone()
        subprocess.run(start, cwd=EXAMPLES, env=environment, check=True, timeout=60)


def test_django_static_files_of_the_admin(django):
    import django as package
    path = "admin/css/base.css"
    expected = (pathlib.Path(package.__file__).parent / "contrib/admin/static" / path).read_bytes()
    response = django.get("/static/" + path)
    assert (response.status, response.body) == (200, expected)
    assert response.get("Content-Type").startswith("text/css")
    stamp = response.get("Last-Modified")
    assert django.get("/static/" + path, f"If-Modified-Since: {stamp}").status == 304
    assert django.get("/static/nowhere.css").status == 404


def test_django_under_concurrent_visitors(django):
    failed = []

    def visit():
        browser = Browser(django)
        for _ in range(10):
            if browser.ask("GET", "/users").status != 200 or browser.ask("GET", "/admin/login/").status != 200:
                failed.append(1)

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    clean(django)


# --- httpbin ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def httpbin(module_server):
    pytest.importorskip("httpbin")
    return module_server("httpbin:app")


def test_httpbin_methods(httpbin):
    said = json.loads(httpbin.get("/get?a=1&a=2&b=%C3%A9", "X-One: 1").body)
    assert said["args"] == {"a": ["1", "2"], "b": "\xe9"}
    assert said["headers"]["X-One"] == "1"
    assert said["url"].startswith("http://test.example/get?")
    assert json.loads(httpbin.post("/post", b"a=b", FORM).body)["form"] == {"a": "b"}
    assert json.loads(httpbin.post("/post", b'{"a": [1]}', "Content-Type: application/json").body)["json"] == {"a": [1]}
    for method in ("PUT", "PATCH", "DELETE"):
        with httpbin.client() as client:
            assert json.loads(client.post("/" + method.lower(), b"data", method=method).body)["data"] == "data"
    assert httpbin.get("/get", method="HEAD").status == 200
    options = httpbin.get("/get", method="OPTIONS")
    assert options.status == 200 and "GET" in options.get("Allow")
    clean(httpbin)


@pytest.mark.parametrize("code", [200, 204, 301, 304, 400, 404, 418, 500, 503])
def test_httpbin_status(httpbin, code):
    with httpbin.client() as client:
        assert client.get(f"/status/{code}").status == code
        assert client.get("/get").status == 200


def test_httpbin_bodies(httpbin):
    with httpbin.client() as client:
        assert len(client.get("/bytes/100000?seed=1").body) == 100000
        streamed = client.get("/stream-bytes/50000?seed=1&chunk_size=1000")
        assert streamed.get("Transfer-Encoding") == "chunked" and len(streamed.body) == 50000
        assert len(client.get("/stream/20").body.splitlines()) == 20
        assert json.loads(gzip.decompress(client.get("/gzip").body))["gzipped"] is True
        part = client.get("/range/1000", "Range: bytes=10-19")
        assert (part.status, len(part.body)) == (206, 10)
        assert client.get("/image/png").body.startswith(b"\x89PNG")
        assert client.get("/drip?duration=0.2&numbytes=5&delay=0").body == b"*****"
        assert "\u00e9" in client.get("/encoding/utf8").body.decode() or client.get("/encoding/utf8").status == 200
        assert client.get("/delay/0.1").status == 200


def test_httpbin_files_cookies_redirects_and_auth(httpbin):
    body, kind = multipart("f", "name.txt", b"file content")
    assert json.loads(httpbin.post("/post", body, kind).body)["files"] == {"f": "file content"}
    assert "a=b" in httpbin.get("/cookies/set?a=b").get("Set-Cookie")
    assert json.loads(httpbin.get("/cookies", "Cookie: a=b; c=d").body)["cookies"] == {"a": "b", "c": "d"}
    assert httpbin.get("/redirect/2").status == 302
    assert httpbin.get("/basic-auth/u/p").status == 401
    assert httpbin.get("/basic-auth/u/p", "Authorization: Basic dTpw").status == 200
    assert httpbin.get("/etag/x", 'If-None-Match: "x"').status == 304
    clean(httpbin)


def test_httpbin_chunked_post(httpbin):
    with httpbin.client() as client:
        client.request("POST /post HTTP/1.1", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
        assert json.loads(client.response().body)["data"] == "hello"
        assert client.get("/get").status == 200


# --- Pyramid ------------------------------------------------------------------------------------------------------


def test_pyramid(module_server):
    pytest.importorskip("pyramid")
    server = module_server("pyramid_app")
    assert server.get().body == b"Hello from Pyramid\n"
    assert json.loads(server.get("/named/%C3%A9?a=b").body) == {"name": "\xe9", "query": {"a": "b"}}
    assert json.loads(server.post("/form", urlencode({"a": "\xe9"}).encode(), FORM).body) == {"a": "\xe9"}
    body, kind = multipart("file", "n", b"x" * 200000)
    assert json.loads(server.post("/upload", body, kind).body) == {"name": "n", "bytes": 200000}
    source = server.get("/source")
    assert source.body == (APPS / "pyramid_app.py").read_bytes()
    assert server.get("/source", f"If-Modified-Since: {source.get('Last-Modified')}").status in (200, 304)
    assert server.get("/moved").get("Location") == "http://test.example/named/there"
    assert server.get("/stream").body == b"".join(b"%d\n" % n for n in range(1000))
    assert server.get("/nowhere").status == 404
    clean(server)


# --- OpenStack placement ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def placement(module_server, tmp_path_factory):
    pytest.importorskip("placement")
    home = tmp_path_factory.mktemp("placement")
    (home / "placement.conf").write_text(
        "[api]\nauth_strategy = noauth2\n"
        f"[placement_database]\nconnection = sqlite:///{home}/placement.db\n"
    )
    manage = pathlib.Path(sys.prefix) / "bin" / "placement-manage"
    subprocess.run([sys.executable, manage, "--config-file", home / "placement.conf", "db", "sync"],
                   check=True, capture_output=True, timeout=120, env=clean_environment())
    return module_server("placement.wsgi.api:application", env={"OS_PLACEMENT_CONFIG_DIR": str(home)})


class Placement:
    FIELDS = ("X-Auth-Token: admin", "OpenStack-API-Version: placement 1.30", "Accept: application/json")

    def __init__(self, server):
        self.client = server.client()

    def ask(self, method, path, body=None):
        fields, data = list(self.FIELDS), b""
        if body is not None:
            data = json.dumps(body).encode()
            fields += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        response = self.client.request(f"{method} {path} HTTP/1.1", *fields, body=data).response(method)
        return response.status, json.loads(response.body) if response.body else None


def test_placement(placement):
    assert json.loads(placement.get("/").body)["versions"][0]["id"] == "v1.0"
    assert placement.get("/resource_providers").status == 401
    api = Placement(placement)
    provider = "11111111-2222-3333-4444-555555555555"
    status, made = api.ask("POST", "/resource_providers", {"name": "host-\u00e9", "uuid": provider})
    assert (status, made["name"]) == (200, "host-\u00e9")
    assert api.ask("POST", "/resource_providers", {"name": "host-\u00e9"})[0] == 409
    status, _ = api.ask("PUT", f"/resource_providers/{provider}/inventories",
                        {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 8}, "MEMORY_MB": {"total": 1024}}})
    assert status == 200
    consumer = "99999999-2222-3333-4444-555555555555"
    status, _ = api.ask("PUT", f"/allocations/{consumer}", {
        "allocations": {provider: {"resources": {"VCPU": 2}}}, "consumer_generation": None,
        "project_id": "p", "user_id": "u"})
    assert status == 204
    status, usages = api.ask("GET", f"/resource_providers/{provider}/usages")
    assert (status, usages["usages"]["VCPU"]) == (200, 2)
    status, candidates = api.ask("GET", "/allocation_candidates?resources=VCPU:1,MEMORY_MB:128")
    assert (status, len(candidates["allocation_requests"])) == (200, 1)
    assert api.ask("PUT", f"/allocations/{consumer}", {"nonsense": 1})[0] == 400
    assert api.ask("GET", f"/resource_providers/{consumer}")[0] == 404
    assert api.ask("DELETE", f"/allocations/{consumer}") == (204, None)
    assert api.ask("DELETE", f"/resource_providers/{provider}") == (204, None)
    clean(placement)


def test_placement_under_concurrent_clients(placement):
    failed = []

    def work(number):
        api = Placement(placement)
        for turn in range(5):
            status, made = api.ask("POST", "/resource_providers", {"name": f"p{number}-{turn}"})
            if status != 200 or api.ask("GET", "/resource_providers/" + made["uuid"])[0] != 200:
                failed.append(status)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
