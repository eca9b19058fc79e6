"""docs/howto/behind-nginx.md and the nginx halves of other pages: each snippet with Debian's nginx and a real server.

If the tests run as root, nginx's workers run as www-data and the server as another user.
"""

import json
import re
import subprocess
import threading

import pytest

from client import PATIENCE, Closed, pattern_sha
from process import MAYPOLE, ROOT, clean_environment, eventually
from ports import free_port
from deployment import (  # noqa: F401 (fixtures)
    IS_ROOT, fronts, needs, nginx, place, shop, snippet,
)
from test_websocket import TEXT, WebSocket

PAGE = "behind-nginx"
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only as root nginx's workers are another user than the server")


# What a client must not be able to say.
FORGED = ("X-Forwarded-Host: evil.example", "X-Forwarded-Port: 666", "X-Forwarded-Prefix: /evil")


def place_of(environ):
    return tuple(environ[key] for key in ("HTTP_HOST", "SERVER_PORT", "SCRIPT_NAME"))


def port_of(server):
    return f"127.0.0.1:{server.port}"


def environ(front, *fields):
    response = front.get("/environ", *fields)
    assert response.status == 200, response
    return json.loads(response.body)["environ"]


def test_nginx_on_a_port(shop, nginx):
    running = shop(PAGE, "test_nginx_on_a_port")
    front = nginx(PAGE, "test_nginx_on_a_port", {"127.0.0.1:8000": port_of(running)})
    response = front.get()
    assert response.status == 200 and response.get("Server").startswith("nginx")
    seen = environ(front, "X-Forwarded-For: 192.0.2.1", *FORGED)
    assert place_of(seen) == ("shop.example", "80", "")
    # nginx replaces the values that the client sent.
    assert (seen["HTTP_X_FORWARDED_FOR"], seen["HTTP_X_FORWARDED_PROTO"]) == ("127.0.0.1", "http")
    # nginx uses its connection again.
    assert len({environ(front)["REMOTE_PORT"] for _ in range(5)}) == 1
    running.stop()
    assert front.get().status == 502
    assert "connect() failed (111: Connection refused)" in front.said()


def test_nginx_on_a_unix_socket(shop, nginx):
    running = shop(PAGE, "test_nginx_on_a_unix_socket", umask=0o077)
    front = nginx(PAGE, "test_nginx_on_a_unix_socket")
    seen = environ(front, *FORGED)
    assert place_of(seen) == ("shop.example", "80", "")
    assert seen["REMOTE_ADDR"] == seen["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
    running.stop()
    assert front.get().status == 502
    assert re.search(r"connect\(\) to unix:\S+/shop.sock failed \(2: No such file or directory\)", front.said())


@needs_root
def test_nginx_and_a_socket_for_its_group_alone(shop, nginx):
    test = "test_nginx_and_a_socket_for_its_group_alone"
    running = shop(PAGE, test)
    front = nginx(PAGE, "test_nginx_on_a_unix_socket")
    assert front.get().status == 200
    running.stop()
    shop(PAGE, test, replace=[(":www-data", ":nogroup")])
    assert front.get().status == 502
    assert re.search(r"connect\(\) to unix:\S+/shop.sock failed \(13: Permission denied\)", front.said())


def test_nginx_with_tls(shop, nginx, place):
    needs("openssl", "curl")
    certificate, key = place / "fullchain.pem", place / "privkey.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example", "-out", certificate, "-keyout", key],
        check=True, capture_output=True, timeout=3 * PATIENCE)
    test = "test_nginx_with_tls"
    shop(PAGE, "test_nginx_on_a_unix_socket", files={"shop/wsgi.py": snippet(PAGE, test, "python")})
    front = nginx(PAGE, test, replace=[("/etc/letsencrypt/live/shop.example/", f"{place}/")])
    moved = front.get("/cart?a=b")
    assert (moved.status, moved.get("Location")) == (301, "https://shop.example/cart?a=b")
    done = subprocess.run(
        ["curl", "-sS", "--http2", "--cacert", certificate, "--resolve", f"shop.example:{front.tls_port}:127.0.0.1",
         "-H", "X-Forwarded-For: 192.0.2.1", "-w", "\n%{http_version}", f"https://shop.example:{front.tls_port}/"],
        capture_output=True, text=True, timeout=3 * PATIENCE, check=True)
    body, version = done.stdout.rsplit("\n", 1)
    assert version == "2"
    assert json.loads(body) == {"client": "127.0.0.1", "here": "https://shop.example/"}


def test_django_settings_behind_a_proxy(server, place):
    pytest.importorskip("django")
    (place / "site_settings.py").write_text(snippet(PAGE, "test_django_settings_behind_a_proxy", "python"))
    (place / "site.py").write_text(
        "import site_settings\n"
        "from django.conf import settings\n"
        "from django.core.wsgi import get_wsgi_application\n"
        "from django.http import JsonResponse\n"
        "from django.urls import path\n"
        "names = {name: getattr(site_settings, name) for name in dir(site_settings) if name.isupper()}\n"
        "settings.configure(ROOT_URLCONF=__name__, SECRET_KEY='for tests', **names)\n"
        "def here(request):\n"
        "    return JsonResponse({'here': request.build_absolute_uri(), 'secure': request.is_secure()})\n"
        "urlpatterns = [path('', here)]\n"
        "application = get_wsgi_application()\n")
    running = server("./site.py", cwd=place)
    with running.client() as client:
        client.request("GET / HTTP/1.1", "X-Forwarded-Proto: https", host="shop.example")
        assert json.loads(client.response().body) == {"here": "https://shop.example/", "secure": True}
        client.request("GET / HTTP/1.1", host="other.example")
        assert client.response().status == 400


def test_nginx_sends_static_files(shop, nginx, place):
    running = shop(PAGE, "test_nginx_on_a_port")
    (place / "static").mkdir()
    (place / "static/logo.svg").write_text("<svg/>")
    test = "test_nginx_sends_static_files"
    front = nginx(PAGE, test, {"127.0.0.1:8000": port_of(running)}, [("/srv/shop/static/", f"{place}/static/")])
    logo = front.get("/static/logo.svg")
    assert (logo.status, logo.body, logo.get("Cache-Control")) == (200, b"<svg/>", "max-age=3600")
    assert front.get("/static/nothing").status == 404
    assert front.get("/").body == b"Hello, World!\n"
    assert running.get("/served?p=/static/logo.svg").body == b"0"


def first_block(client, path):
    """Returns the head of a response and its other blocks. The first block arrives before the application continues."""
    client.request(f"GET {path} HTTP/1.1", host="shop.example")
    response = client.head()
    assert response.status == 200
    blocks = client.chunks()
    assert next(blocks) == b"first"
    return response, blocks


def test_nginx_without_buffers_passes_blocks_on_as_they_come(shop, nginx):
    test = "test_nginx_without_buffers_passes_blocks_on_as_they_come"
    running = shop(PAGE, "test_nginx_on_a_port")
    front = nginx(PAGE, test, {"127.0.0.1:8000": port_of(running)})
    with front.client() as client:
        _, blocks = first_block(client, "/drip/one")
        running.get("/release/one")
        assert next(blocks) == b"second"


DECIDES = """
import threading
gate = threading.Event()
def application(environ, start_response):
    if environ["PATH_INFO"] == "/go":
        gate.set()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")])
    def body():
        yield b"first"
        gate.wait(20)
        yield b"second"
    return body()
"""


def test_application_decides_that_nginx_does_not_buffer(shop, nginx):
    running = shop(PAGE, "test_nginx_on_a_port", files={"shop/wsgi.py": DECIDES})
    front = nginx(PAGE, "test_nginx_on_a_port", {"127.0.0.1:8000": port_of(running)})
    with front.client() as client:
        response, blocks = first_block(client, "/")
        assert response.get("X-Accel-Buffering") is None
        running.get("/go")
        assert next(blocks) == b"second"


def test_websocket_through_nginx(shop, nginx):
    pytest.importorskip("flask_sock")
    test = "test_websocket_through_nginx"
    application = (ROOT / "tests/apps/websocket.py").read_text() + "\napplication = app\n"
    running = shop(PAGE, test, files={"shop/wsgi.py": application})
    front = nginx(PAGE, test, {"127.0.0.1:8000": port_of(running)})
    assert front.get().body == b"ordinary\n"
    with WebSocket(f"http://127.0.0.1:{front.port}") as websocket:
        for text in (b"a", b"b" * 10_000):
            assert websocket.send(TEXT, text).receive() == (TEXT, text)
    assert front.get().body == b"ordinary\n"


def test_request_id_of_nginx_is_in_the_access_log(shop, nginx):
    test = "test_request_id_of_nginx_is_in_the_access_log"
    running = shop(PAGE, test)
    front = nginx(PAGE, test, {"127.0.0.1:8000": port_of(running)})
    ids = {front.get("/environ").get("X-Request-ID") for _ in range(3)}
    assert len(ids) == 3
    for one in ids:
        running.out.wait(rf'{one} "GET /environ HTTP/1\.1" 200 \d+ms queue=\d+us\n')
    assert environ(front)["HTTP_X_REQUEST_ID"]


def test_slow_application_is_a_504_of_nginx(shop, nginx):
    running = shop(PAGE, "test_nginx_on_a_port", "--access-logfile", "-")
    replace = [("proxy_pass http://shop;", "proxy_pass http://shop; proxy_read_timeout 1s;")]
    front = nginx(PAGE, "test_nginx_on_a_port", {"127.0.0.1:8000": port_of(running)}, replace)
    assert front.get("/hold/slow").status == 504
    assert "upstream timed out (110: Connection timed out) while reading response header from upstream" in front.said()
    running.get("/release/slow")
    # No request has failed so far.
    running.out.wait(r'"GET /hold/slow HTTP/1\.1" 200 ')


def test_upload_through_nginx(shop, nginx):
    test = "test_upload_through_nginx"
    running = shop(PAGE, "test_nginx_on_a_port", "--max-body-size", "100MiB")
    front = nginx("uploads", test, {"127.0.0.1:8000": port_of(running)})
    size = 20_000_000
    body = bytes(range(256)) * (size // 256 + 1)
    with front.client() as client:
        client.request("POST /sha HTTP/1.1", f"Content-Length: {size}", host="shop.example", body=body[:size])
        assert client.response().body.decode() == f"{size} {pattern_sha(size)} {size}"
    with front.client() as client:
        client.request("POST /sha HTTP/1.1", f"Content-Length: {101 << 20}", host="shop.example")
        assert client.response().status == 413
    assert "client intended to send too large body" in front.said()


def test_prefix_that_nginx_takes_off(shop, nginx):
    test = "test_prefix_that_nginx_takes_off"
    running = shop("below-a-path", test, files={"shop.py": snippet("below-a-path", test, "python")})
    front = nginx("below-a-path", test, {"127.0.0.1:8000": port_of(running)})
    assert front.get("/shop/cart", host="example.com").body == b"/shop/cart\n"
    assert front.get("/shop", host="example.com").status == 301
    assert front.get("/cart", host="example.com").status == 404


def test_new_code_behind_nginx_loses_nothing(nginx, place):
    """Runs the page's script twice while clients send requests without a pause."""
    needs("curl")
    test = "test_new_code_behind_nginx_loses_nothing"
    (place / "shop").mkdir()
    (place / "shop/wsgi.py").write_text((ROOT / "tests/apps/probe.py").read_text())
    ports = {"8001": str(free_port()), "8002": str(free_port())}
    script = snippet("processes", test, "sh")
    for old, new in ports.items():
        script = script.replace(old, new)
    (place / "deploy.sh").write_text(script)
    bin_directory = place / "bin"
    bin_directory.mkdir()
    (bin_directory / "maypole").symlink_to(MAYPOLE)
    env = clean_environment(PATH=f"{bin_directory}:/usr/bin:/bin")

    def deploy():
        done = subprocess.run(
            ["sh", "deploy.sh"], cwd=place, env=env, timeout=3 * PATIENCE, stdin=subprocess.DEVNULL,
            stdout=(place / "out").open("ab"), stderr=subprocess.STDOUT)
        assert done.returncode == 0, (place / "out").read_text()

    statuses, over = [], threading.Event()

    def ask(front):
        while not over.is_set():
            try:
                statuses.append(front.get("/sleep?s=0.02").status)
            except (OSError, Closed) as error:
                statuses.append(repr(error))

    try:
        deploy()
        front = nginx("processes", test, {f"127.0.0.1:{old}": f"127.0.0.1:{new}" for old, new in ports.items()})
        threads = [threading.Thread(target=ask, args=(front,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            before = len(statuses)
            deploy()
            eventually(lambda before=before: len(statuses) > before + 20, what="that clients are answered")
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert set(statuses) == {200}, {status: statuses.count(status) for status in set(statuses)}
        # The other server has ended and removed its file.
        assert len(list(place.glob("shop-*.pid"))) == 1
    finally:
        over.set()
        for file in place.glob("shop-*.pid"):
            subprocess.run(["kill", file.read_text().strip()], check=False)
