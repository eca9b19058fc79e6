"""Programs of others that speak TLS with the server: clients, scanners, a browser, and proxies.

A test is skipped if its program is not installed. `.ci/run` installs them.
"""

import base64
import json
import os
import re
import shutil
import ssl
import subprocess
import sys

import pytest

from browser import CHROMIUM, browser
from certs import Authority
from client import PATIENCE, Client
from deployment import Front, fronts, needs, place, program_path  # noqa: F401 (fixtures)
from ports import free_port
from process import ROOT, eventually
from tls import AUTHORITY, TLS, TlsClient, context

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
SSLYZE = shutil.which("sslyze") or str(ROOT / "target" / "sslyze" / "bin" / "sslyze")


@pytest.fixture(scope="module")
def secured(module_server):
    return module_server("secured", *TLS)


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """An authority whose files every user may read, with a server's certificate and a client's."""
    authority = Authority(tmp_path_factory.mktemp("peers"))
    authority.issue("a", "localhost")
    authority.issue("b", "localhost")
    authority.issue("client", "proxy.example", subject="/O=Shop/CN=Proxy")
    return authority


def done(*command, data=b"", patience=3 * PATIENCE, statuses=(0,), **more):
    """Runs a program to its end, and returns what it has written. `statuses` are the exit statuses that it may have."""
    ended = subprocess.run(
        list(map(str, command)), input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=patience, **more)
    assert ended.returncode in statuses, ended.stdout.decode(errors="replace")[-3000:]
    return ended.stdout.decode(errors="replace")


# --- clients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_gnutls_resumes_and_asks_for_new_keys(secured, version):
    needs("gnutls-cli")
    command = ["gnutls-cli", "--x509cafile", AUTHORITY, "--port", secured.port, "--alpn", "http/1.1",
               "--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}", "localhost"]
    if version == "1.3":
        again = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n^rekey^\n" + REQUEST
        said = done(*command, "--inline-commands", data=again)
        assert said.count("Hello, World!") == 2 and "Rekey was completed" in said, said
    said = done(*command, "--resume", "--waitresumption", data=REQUEST)
    assert f"TLS{version}" in said and "Application protocol: http/1.1" in said, said
    assert "This is a resumed session" in said and "Hello, World!" in said, said


def test_openssl_connects_again_and_resumes(secured):
    said = done("openssl", "s_client", "-connect", f"localhost:{secured.port}", "-CAfile", AUTHORITY, "-tls1_2", "-reconnect")
    assert said.count("New, TLSv1.2") == 1 and said.count("Reused, TLSv1.2") == 5, said


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_h2load_over_http1(server, version):
    needs("h2load")
    running = server("secured", "--ssl-version", version, *TLS)
    said = done("h2load", "--h1", "-n", 1000, "-c", 10, f"https://localhost:{running.port}/")
    assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in said and f"TLS Protocol: {version}" in said, said


def test_client_that_can_use_no_certificate_is_told_so(secured):
    # The server's key is ECDSA.
    for suite in ("ECDHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256"):
        wanted = context(ssl.TLSVersion.TLSv1_2)
        wanted.set_ciphers(suite)
        with pytest.raises(ssl.SSLError, match="handshake failure"):
            TlsClient(secured.address, wanted).close()


# --- scanners -------------------------------------------------------------------------------------------------------

#: What testssl.sh finds that is not about the server: the tests' certificate, which lasts for ever and names no list of
#: revoked ones, and the fields of the application's response. It also asks for an order of cipher suites of the
#: server's. Maypole leaves the choice to the client, who knows whether its processor computes AES. Mozilla says the
#: same, since every suite is a good one. `--ciphers` sets an order: the finding is not there then.
ARGUED = {"cert_validityPeriod", "cert_revocation", "HSTS", "security_headers", "engine_problem"}
#: On a busy machine: its `openssl s_client` has no input, so it leaves after the handshake. With TLS 1.3 the ticket comes
#: after that, and without one testssl.sh has nothing to resume. Other tests here resume sessions.
TOO_EARLY = {"sessionresumption_ticket": "check failed because of connect problem"}
#: testssl.sh counts in its exit status what it could not decide. From 50 on it is an error.
UNDECIDED = range(50)


def findings_of(server, directory, *options):
    """Runs testssl.sh. Returns its findings that are worse than `INFO`, and the number of all."""
    needs("testssl", "hexdump")
    path = directory / "findings.json"
    done("testssl", "--quiet", "--color", 0, "--warnings", "batch", "--nodns", "min", "--ip", "127.0.0.1", "--add-ca", AUTHORITY,
         "--jsonfile", path, *options, f"localhost:{server.port}", patience=30 * PATIENCE, statuses=UNDECIDED)
    findings = json.loads(path.read_text())
    found = {one["id"]: one["finding"] for one in findings if one["severity"] not in ("OK", "INFO")}
    return dict(found.items() - TOO_EARLY.items()), len(findings)


@pytest.mark.slow
def test_testssl_finds_nothing_of_note(secured, tmp_path):
    found, count = findings_of(secured, tmp_path)
    assert set(found) <= ARGUED | {"cipher_order"}, found
    assert count > 100, "it has looked at everything"


def test_testssl_with_an_order_of_ciphers(server, tmp_path):
    suites = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"
    running = server("secured", "--ciphers", suites, *TLS)
    found, count = findings_of(running, tmp_path, "--server-preference")
    assert set(found) <= ARGUED and count > 3, found


def test_sslyze_finds_nothing(secured, tmp_path):
    if not os.access(SSLYZE, os.X_OK):
        pytest.skip("sslyze is not installed, make test-python does it")
    path = tmp_path / "found.json"
    # The comparison with Mozilla's recommendation has most of the scans. These are the others.
    others = ["--resum", "--early_data", "--http_headers"]
    ended = subprocess.run(
        [SSLYZE, "--certinfo_ca_file", AUTHORITY, "--json_out", path, "--mozilla_config", "intermediate", *others,
         f"localhost:{secured.port}"],
        capture_output=True, text=True, timeout=10 * PATIENCE)
    results = json.loads(path.read_text())["server_scan_results"][0]["scan_result"]
    assert len(results) > 15 and {result["status"] for result in results.values()} == {"COMPLETED"}, ended.stdout
    # It takes a session for new if its ticket is, and rustls sends a new ticket each time. So its word on resumption
    # does not count.
    assert "VULNERABLE_" not in re.sub("NOT_VULNERABLE_", "", json.dumps(results["robot"])), results["robot"]
    # The certificate of the tests is valid for a hundred years.
    told = re.findall(r"^ +\* (\w+): (.*)$", ended.stdout.partition("COMPLIANCE")[2], re.M)
    assert {name for name, _ in told} <= {"maximum_certificate_lifespan"}, ended.stdout[-2000:]


# --- a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
def test_chromium_shows_pages_and_takes_a_new_certificate(server, issued, tmp_path):
    needs("certutil")
    store = tmp_path / ".pki" / "nssdb"
    store.mkdir(parents=True)
    done("certutil", "-N", "--empty-password", "-d", f"sql:{store}")
    done("certutil", "-A", "-d", f"sql:{store}", "-n", "tests", "-t", "C,,", "-i", issued.path("ca.pem"))
    for end in ("pem", "key"):
        shutil.copy(issued.path(f"a.{end}"), tmp_path / f"used.{end}")
    running = server("probe", "--certfile", tmp_path / "used.pem", "--keyfile", tmp_path / "used.key")
    origin = f"https://localhost:{running.port}"
    with browser(tmp_path) as page:
        page.command("Network.enable")
        page.open(f"{origin}/environ")
        eventually(lambda: "wsgi.url_scheme" in (page.value("document.body.innerText") or ""), what="the page")
        assert page.value("window.isSecureContext && location.protocol") == "https:"
        script = "(async () => { let n = 0; for (let i = 0; i < 20; i++) n += (await (await fetch('/whole?n=1000&i=' + i)).arrayBuffer())"
        assert page.value(f"{script}.byteLength; return n }})()") == 20_000
        upload = "(async () => (await (await fetch('/echo', {method: 'POST', body: 'x'.repeat(300000)})).text()).length)()"
        assert page.value(upload) == 300_000
        protocols = page.value("performance.getEntriesByType('resource').map(entry => entry.nextHopProtocol).join()")
        assert set(protocols.split(",")) == {"h2"}, protocols
        assert shown(page, origin) == certificate(issued, "a")
        for end in ("pem", "key"):
            shutil.copy(issued.path(f"b.{end}"), tmp_path / f"used.{end}")
        running.err.wait("certificate")
        # A new connection has the new certificate.
        fetched = f"(async () => (await fetch('{origin}/', {{headers: {{Connection: 'close'}}}})).status)()"

        def renewed():
            page.command("Network.clearBrowserCache")
            return page.value(fetched) == 200 and current(running, issued) == certificate(issued, "b")

        eventually(renewed, what="the new certificate")


def shown(page, origin):
    """Returns the certificate that the browser has got."""
    return base64.b64decode(page.command("Network.getCertificate", origin=origin)["tableNames"][0])


def certificate(issued, name):
    return ssl.PEM_cert_to_DER_cert((issued.directory / f"{name}.pem").read_text())


def current(running, issued):
    with TlsClient(running.address, issued.context()) as client:
        return client.socket.getpeercert(binary_form=True)


# --- proxies --------------------------------------------------------------------------------------------------------


def fields_seen(front, *fields):
    response = front.get("/environ", *fields)
    assert response.status == 200, response
    return json.loads(response.body)["environ"]


@pytest.fixture
def haproxy(fronts, place):
    """Starts HAProxy with these lines for its front and its back end."""
    needs("haproxy")

    def start(front, back, mode="http"):
        port = free_port()
        (place / "haproxy.cfg").write_text(
            f"global\n  log stdout format raw local0\ndefaults\n  mode {mode}\n  log global\n  timeout connect 20s\n  timeout client 60s\n"
            f"  timeout server 60s\nfrontend front\n  bind 127.0.0.1:{port} {front}\n  default_backend back\n"
            f"backend back\n  server shop {back}\n")
        fronts.append(Front("haproxy", [program_path("haproxy"), "-db", "-f", place / "haproxy.cfg"], port))
        return fronts[-1]

    return start


@pytest.fixture
def nginx(fronts, place):
    """Starts nginx with these lines in its location."""
    needs("nginx")

    def start(*lines):
        port = free_port()
        temporary = "".join(f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        inner = "".join(f"{line};\n" for line in lines)
        (place / "nginx.conf").write_text(
            f"daemon off;\npid {place}/nginx.pid;\nworker_processes 1;\nerror_log {place}/error.log;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\nlocation / {{\n{inner}}}\n}}\n}}\n")
        fronts.append(Front("nginx", [program_path("nginx"), "-c", place / "nginx.conf", "-e", place / "error.log"], port,
                            place / "error.log"))
        return fronts[-1]

    return start


def with_both(issued, place):
    """Returns a file with the proxy's certificate and its key."""
    path = place / "both.pem"
    path.write_text((issued.directory / "client.pem").read_text() + (issued.directory / "client.key").read_text())
    return path


MUTUAL = {"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_S_DN": "CN=Proxy,O=Shop", "wsgi.url_scheme": "https"}


def test_haproxy_is_a_client_with_tls(server, issued, place, haproxy):
    required = ["--ca-certs", issued.path("ca.pem"), "--cert-reqs", "required", "--forwarded-headers", "none"]
    running = server("probe", *issued.options("a"), *required)
    verified = f"ssl verify required ca-file {issued.path('ca.pem')} verifyhost localhost sni str(localhost)"
    address = f"127.0.0.1:{running.port}"
    front = haproxy("", f"{address} {verified} crt {with_both(issued, place)} check")
    eventually(lambda: front.get("/").status == 200, what="that requests pass")
    seen = fields_seen(front)
    assert {key: seen[key] for key in MUTUAL} == MUTUAL and seen["SSL_TLS_SNI"] == "localhost"
    with front.client() as client:
        for _ in range(20):
            assert client.post("/echo", b"x" * 50_000).body == b"x" * 50_000
    # Without its certificate, and with another authority, no request comes through.
    assert haproxy("", f"{address} {verified}").get().status in (502, 503)
    other = f"ssl verify required ca-file {AUTHORITY} sni str(localhost)"
    assert haproxy("", f"{address} {other} crt {with_both(issued, place)}").get().status == 503
    running.err.wait("the TLS handshake has failed: ")


def test_nginx_is_a_client_with_tls(server, issued, place, nginx):
    required = ["--ca-certs", issued.path("ca.pem"), "--cert-reqs", "required", "--forwarded-headers", "none"]
    running = server("probe", *issued.options("a"), *required)
    verified = [f"proxy_pass https://127.0.0.1:{running.port}", "proxy_ssl_verify on", "proxy_ssl_name localhost",
                "proxy_ssl_server_name on", "proxy_ssl_protocols TLSv1.2 TLSv1.3", "proxy_http_version 1.1"]
    mine = [f"proxy_ssl_certificate {issued.path('client.pem')}", f"proxy_ssl_certificate_key {issued.path('client.key')}"]
    trusted = f"proxy_ssl_trusted_certificate {issued.path('ca.pem')}"
    front = nginx(*verified, *mine, trusted)
    seen = fields_seen(front)
    assert {key: seen[key] for key in MUTUAL} == MUTUAL and seen["SSL_TLS_SNI"] == "localhost"
    with front.client() as client:
        for _ in range(20):
            assert client.post("/echo", b"x" * 50_000).body == b"x" * 50_000
    # Without its certificate, and with another authority, no request comes through.
    assert nginx(*verified, trusted).get().status in (400, 502)
    front = nginx(*verified, *mine, f"proxy_ssl_trusted_certificate {AUTHORITY}")
    assert front.get().status == 502 and "upstream SSL certificate verify error" in front.said()


def test_proxy_passes_tls_on_with_the_proxy_protocol(server, haproxy):
    running = server("probe", "--proxy-protocol", "v2", *TLS)
    front = haproxy("", f"127.0.0.1:{running.port} send-proxy-v2", mode="tcp")
    with TlsClient(f"https://127.0.0.1:{front.port}") as client:
        seen = json.loads(client.get("/environ").body)["environ"]
        assert (seen["REMOTE_ADDR"], int(seen["REMOTE_PORT"])) == client.socket.getsockname()
        assert (seen["wsgi.url_scheme"], seen["SSL_PROTOCOL"]) == ("https", "TLSv1.3")


@pytest.mark.parametrize("sent", ["send-proxy", "send-proxy-v2-ssl-cn"])
def test_proxy_ends_tls_and_sends_the_proxy_protocol(server, issued, place, haproxy, sent):
    running = server("probe", "--proxy-protocol", "auto", "--scheme", "https")
    (place / "front.pem").write_text((issued.directory / "a.pem").read_text() + (issued.directory / "a.key").read_text())
    front = haproxy(f"ssl crt {place}/front.pem ca-file {issued.path('ca.pem')} verify optional alpn http/1.1",
                    f"127.0.0.1:{running.port} {sent}", mode="tcp")
    with TlsClient(f"https://127.0.0.1:{front.port}", issued.context("client")) as client:
        seen = json.loads(client.get("/environ").body)["environ"]
        assert (seen["REMOTE_ADDR"], int(seen["REMOTE_PORT"])) == client.socket.getsockname()
        assert (seen["wsgi.url_scheme"], seen["HTTPS"]) == ("https", "on") and "SSL_PROTOCOL" not in seen
