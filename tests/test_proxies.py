"""docs/proxies.md: the fields of proxies change the environ if the proxy is trusted, and are left out if not.

The table of cases is in src/forwarded/tests.rs. These tests show that settings, environ and logs follow it, and that
frameworks make the right URLs behind real proxies.
"""

import json
import shlex
import socket
import textwrap

import pytest

from process import ROOT, eventually, run
from snippets import blocks
from deployment import caddy, fronts, haproxy, nginx, place, shop  # noqa: F401 (fixtures)

OTHERS = ("--forwarded-allow-ips", "203.0.113.0/24")
SENT = ("X-Forwarded-For: 6.6.6.6, 192.0.2.7:5", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example",
        "X-Forwarded-Prefix: /sh%6Fp", "X-Forwarded-Ssl: on", "X-Real-IP: 1.1.1.1", "Forwarded: for=1.1.1.1")
TOLD = {
    "REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "5", "wsgi.url_scheme": "https", "HTTPS": "on", "HTTP_HOST": "shop.example",
    "SERVER_NAME": "shop.example", "SERVER_PORT": "443", "SCRIPT_NAME": "/shop",
}


def environ(running, *fields, path="/environ"):
    with running.client() as client:
        client.request(f"GET {path} HTTP/1.1", *fields)
        return json.loads(client.response().body)["environ"]


def of_proxies(seen):
    return {key for key in seen if "FORWARDED" in key or key == "HTTP_X_REAL_IP"}


def test_trusted_proxy_names_the_client_and_its_url(server):
    running = server("probe", "--access-logfile", "-", "--access-logformat", "%(h)s")
    seen = environ(running, *SENT)
    assert {key: seen[key] for key in TOLD} == TOLD
    # Fields of the other custom are left out.
    assert "HTTP_FORWARDED" not in seen and seen["HTTP_X_FORWARDED_FOR"] == "6.6.6.6, 192.0.2.7:5"
    running.out.wait(r"^192\.0\.2\.7\n")
    # What one request says does not count for the next one of the connection.
    with running.client() as client:
        client.request("GET /environ HTTP/1.1", *SENT)
        client.response()
        client.request("GET /environ HTTP/1.1")
        seen = json.loads(client.response().body)["environ"]
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["SCRIPT_NAME"]) == ("127.0.0.1", "http", "")
    assert "HTTPS" not in seen


def test_fields_of_others_change_nothing_and_are_left_out(server):
    running = server("probe", *OTHERS)
    with running.client() as client:
        client.request("GET /environ HTTP/1.1")
        plain = json.loads(client.response().body)["environ"]
        client.request("GET /environ HTTP/1.1", *SENT)
        assert json.loads(client.response().body)["environ"] == plain
    running.err.wait(r"127\.0\.0\.1:\d+ sends fields of a proxy, .* If it is your proxy, set --forwarded-allow-ips 127\.0\.0\.1")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((*OTHERS, "--strip-untrusted-forwarded", "off"), True),
        (("--forwarded-headers", "none"), True),
        (("--forwarded-headers", "forwarded"), False),
    ],
    ids=["not stripped", "none", "the other custom"])
def test_fields_that_are_not_read(server, options, kept):
    seen = environ(server("probe", *options), *SENT[:-1])
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    expected = {"HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PREFIX",
                "HTTP_X_FORWARDED_SSL", "HTTP_X_REAL_IP"}
    assert of_proxies(seen) == (expected if kept else set())


def test_forwarded_of_rfc_7239_from_networks_of_the_variable(server):
    running = server("probe", "--forwarded-headers", "forwarded", env={"FORWARDED_ALLOW_IPS": "127.0.0.0/8,10.0.0.3"})
    seen = environ(running, 'Forwarded: for=6.6.6.6, for="[2001:db8::7]:81";proto=https;host=shop.example, for=10.0.0.3')
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("2001:db8::7", "81")
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("https", "shop.example")


def test_proxy_on_a_unix_socket_is_trusted(server, tmp_path):
    running = server("probe", *OTHERS, "--bind", f"unix:{tmp_path}/s", bind=False, ready=False)
    running.err.wait("listening on")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(f"{tmp_path}/s")
        sock.sendall(b"GET /environ HTTP/1.0\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert json.loads(received.partition(b"\r\n\r\n")[2])["environ"]["REMOTE_ADDR"] == "192.0.2.7"


def test_malformed_fields_are_ignored_as_a_whole_and_logged_once(server):
    running = server("probe")
    with running.client() as client:
        for _ in range(3):
            client.request("GET /environ HTTP/1.1", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: gopher")
            seen = json.loads(client.response().body)["environ"]
            assert (seen["REMOTE_ADDR"], of_proxies(seen)) == ("127.0.0.1", set())
    running.stop()
    assert running.err.text().count('sends a field X-Forwarded-Proto that is malformed') == 1


def test_wrong_values_are_usage_errors():
    for words, said in [
        (("--forwarded-allow-ips", "nonsense"), "expected an IP address, a network such as 10.0.0.0/8"),
        (("--forwarded-headers", "x-real-ip"), "expected x-forwarded, forwarded or none"),
        (("--strip-untrusted-forwarded", "maybe"), "expected on or off"),
        (("--scheme", "ftp"), "expected http or https"),
        (("--prefix", "shop"), "expected a path that begins with a slash, such as /shop"),
        (("--prefix", "/a%2Fb"), "expected a path such as /shop, with escapes such as %20"),
    ]:
        done = run(*words, "probe")
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    done = run("probe", env={"FORWARDED_ALLOW_IPS": "here"})
    assert done.returncode == 2 and "invalid value 'here' for FORWARDED_ALLOW_IPS" in done.stderr


def test_page_of_proxies(server):
    lines = [block.text for block in blocks(ROOT / "docs/proxies.md") if block.text.startswith("maypole ")]
    seen = {}
    for line in lines:
        _, *options, _ = shlex.split(line)
        running = server("probe", *options)
        path = "/shop/environ" if "--prefix" in options else "/environ"
        seen[options[0]] = environ(running, *SENT, path=path)
        if options[0] == "--scheme":
            assert environ(running)["wsgi.url_scheme"] == "https"
    addresses = {"--forwarded-allow-ips": "6.6.6.6", "--scheme": "192.0.2.7", "--prefix": "192.0.2.7"}
    assert {option: said["REMOTE_ADDR"] for option, said in seen.items()} == addresses and len(lines) == 4


FRAMEWORKS = {
    "flask": """
        from flask import Flask, request, url_for
        application = Flask(__name__)
        @application.get("/")
        def here():
            return {"url": url_for("here", _external=True), "client": request.remote_addr}
    """,
    "django": """
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.http import JsonResponse
        from django.urls import path
        settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="for tests", ALLOWED_HOSTS=["*"])
        def here(request):
            return JsonResponse({"url": request.build_absolute_uri(), "client": request.META["REMOTE_ADDR"]})
        urlpatterns = [path("", here)]
        application = get_wsgi_application()
    """,
    "pyramid": """
        from pyramid.config import Configurator
        def here(request):
            return {"url": request.route_url("here"), "client": request.client_addr}
        with Configurator() as config:
            config.add_route("here", "/")
            config.add_view(here, route_name="here", renderer="json")
            application = config.make_wsgi_app()
    """,
}


@pytest.mark.parametrize("proxy", ["nginx", "haproxy", "caddy"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_makes_the_urls_that_the_client_uses(shop, request, framework, proxy):  # noqa: F811
    """With the proxies' files of the pages, and without a word to the framework."""
    pytest.importorskip(framework)
    page, test = {
        "nginx": ("behind-nginx", "test_nginx_on_a_port"),
        "haproxy": ("behind-haproxy", "test_haproxy_in_http_mode"),
        "caddy": ("behind-caddy", "test_caddy_on_a_unix_socket"),
    }[proxy]
    start = request.getfixturevalue(proxy)
    running = shop(page, test, files={"shop/wsgi.py": textwrap.dedent(FRAMEWORKS[framework])})
    front = start(page, test) if proxy == "caddy" else start(page, test, {"127.0.0.1:8000": f"127.0.0.1:{running.port}"})
    eventually(lambda: front.get("/").status == 200, what="that requests pass")
    told = json.loads(front.get("/", "X-Forwarded-Proto: ftp").body)
    assert told == {"url": "http://shop.example/", "client": "127.0.0.1"}
