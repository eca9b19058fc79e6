"""docs/proxies.md: `--scheme` and `--prefix` decide the URL that the application sees. Only a trusted proxy's word goes
before the scheme, and stands before the path.
"""

import json
import subprocess
import sys
import textwrap

import pytest

from process import clean_environment, eventually
from status import Status

NAMES = ("SCRIPT_NAME", "PATH_INFO", "RAW_URI", "wsgi.url_scheme", "HTTPS")


def said(client, line, *fields):
    """Returns what the environ of a request says, or the status of another response than 200."""
    client.request(line, *fields)
    response = client.response()
    if response.status != 200:
        return response.status
    seen = json.loads(response.body)["environ"]
    return [seen.get(name) for name in NAMES]


def test_scheme_is_that_of_the_setting_unless_a_proxy_names_one(server):
    running = server("probe", "--scheme", "https")
    with running.client() as client:
        for fields, expected in [
            ((), ["https", "on"]),
            (("X-Forwarded-Proto: http",), ["http", None]),
            (("X-Forwarded-For: 192.0.2.7",), ["https", "on"]),
            (("X-Forwarded-Proto: gopher",), ["https", "on"]),
            ((), ["https", "on"]),
        ]:
            assert said(client, "GET /environ HTTP/1.1", *fields)[3:] == expected, fields
    running = server("probe", "--scheme", "https", "--forwarded-allow-ips", "203.0.113.1")
    with running.client() as client:
        assert said(client, "GET /environ HTTP/1.1", "X-Forwarded-Proto: http")[3:] == ["https", "on"]


def test_application_is_below_the_prefix_and_nowhere_else(server):
    running = server("probe", "--prefix", "/app/sh%6Fp/")
    with running.client() as client:
        for path, expected in [
            ("/app/shop/environ", ["/app/shop", "/environ"]),
            ("/app/shop/environ/", ["/app/shop", "/environ/"]),
            ("/%61pp/%73hop/environ/%41%2F", ["/app/shop", "/environ/A/"]),
            ("/app/shop/environ//x?next=/app/shop", ["/app/shop", "/environ//x"]),
            ("/app/shop//environ", ["/app/shop", "//environ"]),
            (f"http://127.0.0.1:{running.port}/app/shop/environ", ["/app/shop", "/environ"]),
        ]:
            assert said(client, f"GET {path} HTTP/1.1")[:3] == [*expected, path], path
        seen = said(client, "GET /app/shop/environ HTTP/1.1", "X-Forwarded-Prefix: /de")
        assert seen[:2] == ["/de/app/shop", "/environ"]


def test_path_outside_the_prefix_gets_404_without_a_thread_and_a_place(server):
    running = server("probe", "--prefix", "/app/shop", "--threads", "1", "--pool-size", "1", "--stream-requests", "always",
                     "--min-rate", "0", "--body-timeout", "2m",
                     "--access-logfile", "-", "--access-logformat", "%(s)s %(U)s", "--status-bind", "127.0.0.1:0")
    status = Status(running)
    with running.client() as holding, running.client() as client:
        # The only thread waits for the body, with the only place in the pool.
        holding.request("POST /app/shop/echo HTTP/1.1", "Content-Length: 5")
        eventually(lambda: status.metric('maypole_pool_taken{worker="1"}') == 1, what="that the place is taken")
        for path in ["/", "/app", "/app/shopping", "/app/shop%2Fenviron", "/app%2Fshop/environ", "//app/shop/environ",
                     "/App/shop/environ", "/app//shop/environ", "/app/x/../shop/environ", "/environ"]:
            assert said(client, f"GET {path} HTTP/1.1") == 404, path
        # The response is like others: for HEAD, for a body that arrives, and for one that is asked for.
        assert client.get("/", method="HEAD").status == 404
        client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [client.response().status, client.response().status] == [404, 404]
        response = client.get("/", method="OPTIONS")
        assert (response.status, response.body) == (404, b"404 Not Found\n")
        assert client.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST").status == 404
        holding.send(b"hello")
        assert holding.response().body == b"hello"
    running.out.wait(r"404 /app/shop%2Fenviron\n")


FRAMEWORKS = {
    "flask": """
        from flask import Flask, request, url_for
        application = Flask(__name__)
        @application.get("/cart")
        def cart():
            return {"url": url_for("cart", _external=True), "path": request.path}
    """,
    "django": """
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.http import JsonResponse
        from django.urls import path, reverse
        settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="for tests", ALLOWED_HOSTS=["*"])
        def cart(request):
            return JsonResponse({"url": request.build_absolute_uri(reverse("cart")), "path": request.path_info})
        urlpatterns = [path("cart", cart, name="cart")]
        application = get_wsgi_application()
    """,
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_makes_urls_below_the_prefix(server, tmp_path, framework):
    pytest.importorskip(framework)
    (tmp_path / "site_below.py").write_text(textwrap.dedent(FRAMEWORKS[framework]))
    running = server("site_below", "--chdir", tmp_path, "--prefix", "/shop", "--scheme", "https")
    with running.client() as client:
        client.request("GET /shop/cart HTTP/1.1", host="shop.example")
        assert json.loads(client.response().body) == {"url": "https://shop.example/shop/cart", "path": "/cart"}
        client.request("GET /cart HTTP/1.1")
        assert client.response().status == 404


def test_embedded_server_takes_both_settings(tmp_path):
    program = """
        import json, urllib.request, maypole
        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [json.dumps([environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["wsgi.url_scheme"]]).encode()]
        with maypole.Server(application, "127.0.0.1:0", prefix="/shop", scheme="https") as server:
            print(urllib.request.urlopen(server.addresses[0] + "/shop/cart").read().decode())
    """
    (tmp_path / "embedding.py").write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, tmp_path / "embedding.py"], env=clean_environment(), capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode, done.stdout) == (0, '["/shop", "/cart", "https"]\n'), done.stderr
