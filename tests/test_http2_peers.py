"""Programs of others that speak HTTP/2 with the server: a browser, a proxy, and command lines."""

import json
import re
import shutil

import pytest

from browser import CHROMIUM, browser
from client import pattern_sha
from deployment import fronts, needs, place  # noqa: F401 (fixtures)
from process import eventually
from test_tls_peers import done, haproxy, issued  # noqa: F401 (fixtures)
from tls import AUTHORITY, TLS

PAGE = """<!doctype html><title>a page</title><link rel="stylesheet" href="/static/style.css">
<script src="/static/script.js"></script><img src="/static/dot.svg"><img src="/static/dot.svg?2">
<script>window.fetched = Promise.all([1, 2, 3, 4, 5].map(n => fetch('/whole?n=' + n * 30000).then(r => r.arrayBuffer())))
</script>"""
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="7" height="5"/>'


@pytest.fixture(params=["plain", "tls"])
def secured(server, request):
    running = server("probe", *(TLS if request.param == "tls" else ()))
    running.tls = request.param == "tls"
    running.url = running.address.replace("127.0.0.1", "localhost")
    return running


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
def test_chromium_loads_a_page_with_its_resources(server, issued, tmp_path):  # noqa: F811
    needs("certutil")
    store = tmp_path / ".pki" / "nssdb"
    store.mkdir(parents=True)
    done("certutil", "-N", "--empty-password", "-d", f"sql:{store}")
    done("certutil", "-A", "-d", f"sql:{store}", "-n", "tests", "-t", "C,,", "-i", issued.path("ca.pem"))
    files = tmp_path / "files"
    files.mkdir()
    (files / "page.html").write_text(PAGE)
    (files / "style.css").write_text("body { color: rgb(1, 2, 3) }")
    (files / "script.js").write_text("window.loaded = 'yes'")
    (files / "dot.svg").write_text(DOT)
    running = server("probe", *issued.options("a"), "--static", f"/static={files}", "--access-logfile", "-")
    with browser(tmp_path) as page:
        page.open(f"https://localhost:{running.port}/static/page.html")
        eventually(lambda: page.value("document.readyState") == "complete", what="the page")
        assert page.value("window.fetched.then(all => all.map(one => one.byteLength).join())") == "30000,60000,90000,120000,150000"
        assert page.value("window.loaded + getComputedStyle(document.body).color") == "yesrgb(1, 2, 3)"
        assert page.value("[...document.images].map(one => one.naturalWidth).join()") == "7,7"
        used = "performance.getEntriesByType('{}').map(entry => entry.nextHopProtocol).join()"
        assert page.value(used.format("navigation")) == "h2"
        # Nine, and what it asks for besides, such as an icon, which is not there.
        protocols = page.value(used.format("resource")).split(",")
        assert set(protocols) == {"h2"} and len(protocols) >= 9, protocols
        assert not [text for text in page.complaints if "404" not in text]
    running.out.wait(r'"GET /static/script\.js HTTP/2\.0" 200')


@pytest.mark.parametrize("how", ["plain", "tls"])
def test_haproxy_speaks_it_to_the_server(server, haproxy, how):  # noqa: F811
    running = server("probe", "--access-logfile", "-", *(TLS if how == "tls" else ()))
    verified = f" ssl verify required ca-file {AUTHORITY} verifyhost localhost sni str(localhost) alpn h2"
    front = haproxy("", f"127.0.0.1:{running.port} proto h2{verified if how == 'tls' else ''}")
    eventually(lambda: front.get("/").status == 200, what="that requests pass")
    with front.client() as client:
        seen = json.loads(client.get("/environ?a=b", "X-Twice: 1", "X-Twice: 2").body)["environ"]
        assert (seen["SERVER_PROTOCOL"], seen["QUERY_STRING"]) == ("HTTP/2.0", "a=b")
        assert seen["wsgi.url_scheme"] == ("https" if how == "tls" else "http")
        for _ in range(20):
            assert client.post("/echo", b"x" * 50_000).body == b"x" * 50_000
        assert client.post("/sha", b"y" * 500_000).body.split()[0] == b"500000"
        assert len(client.get("/big?n=3000000").body) == 3_000_000
        assert client.get("/fail").status == 500 and client.get("/status?s=204+No").status == 204
    running.out.wait(r'"GET /environ\?a=b HTTP/2\.0" 200')


@pytest.mark.parametrize("most", [1, 10])
def test_h2load_has_no_failed_request(secured, most):
    needs("h2load")
    said = done("h2load", "-n", 3000, "-c", 10, "-m", most, f"{secured.url}/")
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in said and "3000 2xx" in said, said
    assert re.search(r"Application protocol: h2c?\n", said), said


def test_h2load_uploads(secured, tmp_path):
    needs("h2load")
    (tmp_path / "body").write_bytes(b"z" * 200_000)
    said = done("h2load", "-n", 200, "-c", 4, "-m", 5, "-d", tmp_path / "body", f"{secured.url}/sha")
    assert "200 succeeded, 0 failed, 0 errored, 0 timeout" in said and "200 2xx" in said, said


def test_curl_gets_many_at_once_on_one_connection(server):
    """With TLS. Without it, curl 7.88 fails at its second request, of which it sends nothing."""
    needs("curl")
    url = server("probe", *TLS).address.replace("127.0.0.1", "localhost")
    how = ["--http2", "--cacert", AUTHORITY]
    wanted = [f"{url}/whole?n={n}" for n in (10, 20_000, 300_000)]
    pairs = [word for url in wanted for word in ("-o", "/dev/null", url)]
    told = "%{http_version} %{response_code} %{size_download} %{num_connects}\n"
    said = done("curl", "-sS", "--no-progress-meter", "--parallel", *how, "-w", told, *pairs).split("\n")
    rows = sorted(line.split() for line in said if line)
    assert sum(int(row[3]) for row in rows) == 1, said
    assert sorted(row[:3] for row in rows) == sorted(["2", "200", str(n)] for n in (10, 20_000, 300_000)), said
    assert done("curl", "-sS", *how, "--data-binary", "@-", f"{url}/sha", data=bytes(range(256)) * 5000).split()[1] \
        == pattern_sha(1_280_000)


def test_nghttp_shows_early_hints(server):
    needs("nghttp")
    running = server("wsgi_cases")
    said = done("nghttp", "-v", f"{running.address}/hints")
    assert len(re.findall(r":status: 103\n", said)) == 2 and re.search(r":status: 200\n", said), said
    assert "link: </style.css>; rel=preload; as=style" in said and "hinted" in said, said


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is missing")
@pytest.mark.parametrize(("offered", "chosen"), [("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("http/1.1", "http/1.1")])
def test_openssl_agrees_on_the_version(server, offered, chosen):
    running = server("probe", *TLS)
    said = done("openssl", "s_client", "-connect", f"localhost:{running.port}", "-CAfile", AUTHORITY, "-alpn", offered)
    assert f"ALPN protocol: {chosen}" in said, said
