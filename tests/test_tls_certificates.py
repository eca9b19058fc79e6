"""Certificates, keys and the other settings of TLS, with files that `openssl` makes."""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess

import pytest

from certs import Authority, Secured
from client import PATIENCE
from process import MAYPOLE, ROOT, eventually, run

TLS13 = ssl.TLSVersion.TLSv1_3
REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """An authority with certificates that no test changes."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("a", "a.example", "*.shop.example")
    authority.issue("b", "b.example", "x.shop.example")
    authority.issue("client", "one.example", "two.example", subject="/C=DE/O=Shop/CN=Client 7")
    return authority


def names(server, authority, host, **settings):
    with Secured(server.address, authority.context(**settings), host) as client:
        client.assert_open()
        return client.names()


def test_client_gets_the_certificate_of_the_host_that_it_names(server, issued):
    running = server("probe", *issued.options("a"), *issued.options("b"))
    assert running.address.startswith("https://")
    for host, first in [("a.example", "a.example"), ("b.example", "b.example"), ("y.shop.example", "a.example"),
                        ("x.shop.example", "b.example")]:
        assert names(running, issued, host)[0] == first, host
    unknown = issued.context()
    unknown.check_hostname = False
    with Secured(running.address, unknown, "unknown.example") as client:
        assert client.names()[0] == "a.example"
        seen = json.loads(client.get("/environ").body)["environ"]
        assert seen["SSL_TLS_SNI"] == "unknown.example"
        assert (seen["SSL_PROTOCOL"], seen["SSL_CLIENT_VERIFY"]) == ("TLSv1.3", "NONE")
        assert seen["SSL_CIPHER"] == client.socket.cipher()[0]


def test_address_may_stay_without_tls(server, issued):
    running = server("probe", *issued.options("a"), "--bind", "http://127.0.0.1:0", "--bind", "https://127.0.0.1:0")
    assert [address.partition(":")[0] for address in running.addresses] == ["https", "http", "https"]
    assert names(running, issued, "a.example") == ["a.example", "*.shop.example"]
    running.addresses = running.addresses[1:]
    assert running.get("/").status == 200
    running.addresses = running.addresses[1:]
    assert names(running, issued, "a.example")


def test_client_certificate_is_asked_for_and_shown(server, issued):
    optional = server("probe", *issued.options("a"), "--ca-certs", issued.path("ca.pem"), "--cert-reqs", "1")
    with Secured(optional.address, issued.context("client"), "a.example") as client:
        seen = json.loads(client.get("/environ").body)["environ"]
    told = {key: value for key, value in seen.items() if key.startswith("SSL_CLIENT")}
    assert told.pop("SSL_CLIENT_CERT") == (issued.directory / "client.pem").read_text()
    assert told.pop("SSL_CLIENT_M_SERIAL") and told.pop("SSL_CLIENT_V_START").endswith("GMT")
    assert told.pop("SSL_CLIENT_V_END").endswith("GMT")
    assert told == {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": "CN=Client 7,O=Shop,C=DE",
        "SSL_CLIENT_I_DN": "CN=Authority",
        "SSL_CLIENT_SAN_DNS_0": "one.example",
        "SSL_CLIENT_SAN_DNS_1": "two.example",
    }
    with Secured(optional.address, issued.context(), "a.example") as client:
        seen = json.loads(client.get("/environ").body)["environ"]
        assert seen["SSL_CLIENT_VERIFY"] == "NONE" and "SSL_CLIENT_S_DN" not in seen


def test_client_without_a_certificate_is_refused_if_one_is_required(server, issued, tmp_path):
    required = server("probe", *issued.options("a"), "--ca-certs", issued.path("ca.pem"), "--cert-reqs", "required")
    assert names(required, issued, "a.example", client="client")
    stranger = Authority(tmp_path)
    stranger.issue("client")
    shutil.copy(issued.path("ca.pem"), tmp_path / "ca.pem")
    for settings in (issued.context(), stranger.context("client")):
        with pytest.raises(REFUSED), Secured(required.address, settings, "a.example") as client:
            # With TLS 1.3 the server's refusal comes after the client's handshake.
            client.request()
            assert client.socket.recv(1) == b"", "the connection ends"
            raise ConnectionResetError


def test_revoked_client_certificate_is_refused(server, tmp_path):
    authority = Authority(tmp_path)
    authority.issue("a")
    authority.issue("good")
    authority.issue("bad")
    (tmp_path / "index").touch()
    (tmp_path / "ca.conf").write_text("[ca]\ndefault_ca=d\n[d]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=9\ncrlnumber=number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n")
    (tmp_path / "number").write_text("01\n")
    ca = ["ca", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca.key"]
    authority.openssl(*ca, "-revoke", "bad.pem")
    authority.openssl(*ca, "-gencrl", "-out", "crl.pem")
    options = ["--ca-certs", authority.path("ca.pem"), "--cert-reqs", "2", "--ssl-crl", authority.path("crl.pem")]
    running = server("probe", *authority.options("a"), *options)
    assert names(running, authority, "a.example", client="good")
    with pytest.raises(REFUSED), Secured(running.address, authority.context("bad"), "a.example") as client:
        client.request()
        assert client.socket.recv(1) == b""
        raise ConnectionResetError


def test_versions_and_ciphers_are_those_of_the_settings(server, issued):
    suite = "ECDHE-ECDSA-AES128-GCM-SHA256"
    running = server("probe", *issued.options("a"), "--ssl-version", "TLSv1_2", "--ciphers", f"{suite}:HIGH:!aNULL")
    running.err.wait(r"--ciphers: HIGH, !aNULL is not the name of one of Maypole's suites, and has no effect")
    with Secured(running.address, issued.context(), "a.example") as client:
        assert (client.socket.version(), client.socket.cipher()[0]) == ("TLSv1.2", suite)
        seen = json.loads(client.get("/environ").body)["environ"]
        assert (seen["SSL_PROTOCOL"], seen["SSL_CIPHER"]) == ("TLSv1.2", suite)
    with pytest.raises(REFUSED), Secured(running.address, issued.context(version=TLS13), "a.example"):
        pass


def test_protocol_of_another_kind_ends_the_handshake(server, issued):
    running = server("probe", *issued.options("a"))
    settings = issued.context()
    settings.set_alpn_protocols(["smtp"])
    with pytest.raises(REFUSED), Secured(running.address, settings, "a.example"):
        pass
    settings.set_alpn_protocols(["http/1.1", "http/1.0"])
    with Secured(running.address, settings, "a.example") as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"


def session_of(address, settings, host="a.example"):
    """Returns a session that can be resumed."""
    with Secured(address, settings, host) as client:
        client.assert_open()
        return client.socket.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, TLS13])
def test_session_is_resumed_by_every_worker_and_after_a_reload(server, issued, version):
    running = server("probe", *issued.options("a"), "-w", "2", "--reload-engine", "poll")
    settings = issued.context(version=version)
    session = session_of(running.address, settings)
    for _ in range(6):
        with Secured(running.address, settings, "a.example", session) as client:
            client.assert_open()
            assert client.socket.session_reused
    running.signal(signal.SIGHUP)
    running.err.wait(r"reloaded: 2 workers")
    with Secured(running.address, settings, "a.example", session) as client:
        client.assert_open()
        assert client.socket.session_reused


def test_session_is_resumed_after_a_restart_in_the_same_process(server, issued):
    running = server("probe", *issued.options("a"))
    settings = issued.context(version=ssl.TLSVersion.TLSv1_2)
    session = session_of(running.address, settings)
    before = len(running.err.text())
    running.signal(signal.SIGHUP)
    running.err.wait(r"listening on https", start=before)
    with Secured(running.address, settings, "a.example", session) as client:
        client.assert_open()
        assert client.socket.session_reused


@pytest.mark.parametrize("workers", [[], ["-w", "2"]])
def test_changed_certificate_is_read_and_a_wrong_one_is_not(server, tmp_path, workers):
    authority = Authority(tmp_path)
    running = server("probe", *authority.issue("a", "a.example", "first.example"), *workers)
    assert "first.example" in names(running, authority, "a.example")
    with Secured(running.address, authority.context(), "a.example") as stays:
        before = len(running.err.text())
        (tmp_path / "a.pem").write_text("")
        line = r"the certificates have changed, and the ones before stay in use: --certfile \S+a\.pem is empty"
        running.err.wait(line, start=before)
        assert "first.example" in names(running, authority, "a.example")
        authority.issue("a", "a.example", "second.example")
        running.err.wait("the certificates have changed: new connections have the new ones", start=before)
        # Each worker looks at the files by itself.
        eventually(lambda: all("second.example" in names(running, authority, "a.example") for _ in range(8)))
        stays.assert_open()


def test_reload_with_a_wrong_certificate_changes_nothing(server, tmp_path):
    authority = Authority(tmp_path)
    running = server("probe", *authority.issue("a"), "-w", "1")
    before = len(running.err.text())
    os.replace(tmp_path / "ca.key", tmp_path / "a.key")
    running.signal(signal.SIGHUP)
    running.err.wait(r"a\.pem and its key do not fit: the key is that of another certificate", start=before)
    assert names(running, authority, "a.example")


def test_response_of_ocsp_is_sent_along(server, tmp_path):
    authority = Authority(tmp_path)
    options = authority.issue("a")
    serial = subprocess.check_output(["openssl", "x509", "-in", tmp_path / "a.pem", "-noout", "-serial"], text=True)
    (tmp_path / "index").write_text(f"V\t491231235959Z\t\t{serial.strip().partition('=')[2]}\tunknown\t/CN=a\n")
    authority.openssl("ocsp", "-issuer", "ca.pem", "-cert", "a.pem", "-no_nonce", "-reqout", "request.der")
    authority.openssl(
        "ocsp", "-index", "index", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key", "-reqin", "request.der",
        "-ndays", "2", "-respout", "a.pem.ocsp",
    )
    running = server("probe", *options)
    address = running.address.removeprefix("https://")
    for version in ("-tls1_2", "-tls1_3"):
        done = subprocess.run(
            ["openssl", "s_client", "-connect", address, "-servername", "a.example", "-status", version, "-CAfile",
             authority.path("ca.pem")],
            input=b"", capture_output=True, timeout=PATIENCE,
        )
        assert b"OCSP Response Status: successful" in done.stdout and b"Cert Status: good" in done.stdout, done.stdout
    (tmp_path / "a.pem.ocsp").write_bytes(b"nothing")
    ended = run("probe", "--bind", "127.0.0.1:0", *options)
    assert ended.returncode == 2 and "a.pem.ocsp is no OCSP response" in ended.stderr


def test_certificate_that_ends_soon_is_told_at_the_start(server, tmp_path):
    authority = Authority(tmp_path)
    running = server("probe", *authority.issue("a", days=3))
    running.err.wait(r"the certificate \S+a\.pem expires in 2 days")


def test_files_that_are_wrong_end_the_start(issued, tmp_path):
    (tmp_path / "empty.pem").touch()
    issued.openssl("pkcs8", "-topk8", "-in", "a.key", "-out", "encrypted.key", "-passout", "pass:secret")
    certificate = ["--certfile", issued.path("a.pem")]
    for options, sentence in [
        (["--certfile", tmp_path / "empty.pem"], "empty.pem is empty"),
        ([*certificate, "--keyfile", issued.path("b.key")], "the key is that of another certificate"),
        ([*certificate, "--keyfile", issued.path("encrypted.key")], "--keyfile-password is not set"),
        ([*certificate, "--keyfile", issued.path("encrypted.key"), "--keyfile-password", "wrong"], "the password is wrong"),
        ([*certificate, "--ciphers", "HIGH"], "it names none of Maypole's suites"),
        ([*certificate, "--ssl-version", "TLSv1"], "older versions are broken"),
        (["--bind", "https://127.0.0.1:0"], "needs --certfile"),
    ]:
        for more in ([], ["-w", "1"]) if options[0] == "--certfile" and "empty" in str(options[1]) else ([],):
            ended = run("probe", "--bind", "127.0.0.1:0", *options, *more)
            assert ended.returncode == 2 and sentence in ended.stderr, (options, ended.stderr)
            assert "listening" not in ended.stderr
    checked = run("probe", "--check-config", *certificate, "--keyfile", issued.path("b.key"))
    assert checked.returncode == 2 and "the key is that of another certificate" in checked.stderr


def test_setting_of_tls_without_a_certificate_is_refused():
    for option, value, why in [
        ("--keyfile", "k", "needs"), ("--cert-reqs", "1", "needs"), ("--ca-certs", "a", "needs"), ("--ssl-crl", "r", "needs"),
        ("--https-redirect", None, "needs"), ("--keyfile-password", "env:K", "has no effect without"),
        ("--ciphers", "ECDHE-RSA-AES128-GCM-SHA256", "has no effect without"),
        ("--ssl-version", "TLSv1_3", "has no effect without"), ("--ktls", "off", "has no effect without"),
    ]:
        words = [option] if value is None else [option, value]
        done = run("--check-config", *words, "probe")
        assert (done.returncode, done.stderr) == (2, f"error: {option} {why} --certfile\n")


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_file_or_environment_may_say_how_tls_is_spoken_without_a_certificate(server, tmp_path, workers):
    """Several servers may share them. Workers get the settings of a file as words, which the supervisor has checked."""
    file = tmp_path / "maypole.toml"
    file.write_text('[maypole]\nssl_version = "TLSv1_3"\nmax_requests_jitter = 5\n')
    running = server("probe", "--config", file, *workers, env={"MAYPOLE_KTLS": "off"})
    assert running.get().status == 200
    for place, option in ((f"{file}:2", "--ssl-version"), ("variable MAYPOLE_KTLS", "--ktls")):
        sentence = f"{option} ({place}) has no effect without --certfile"
        assert running.err.text().count(sentence) == 1, running.err.text()
    # A file that asks for certificates of clients is not served without them.
    file.write_text('[maypole]\nca_certs = "clients.pem"\n')
    done = run("--check-config", "--config", file, "probe")
    assert (done.returncode, done.stderr) == (2, "error: --ca-certs needs --certfile\n")


def test_password_comes_from_the_environment_and_is_not_printed(server, issued):
    issued.openssl("pkcs8", "-topk8", "-in", "a.key", "-out", "locked.key", "-passout", "pass:hush-hush")
    options = ["--certfile", issued.path("a.pem"), "--keyfile", issued.path("locked.key")]
    env = {"MAYPOLE_KEYFILE_PASSWORD": "hush-hush"}
    assert names(server("probe", *options, env=env), issued, "a.example")
    printed = run("probe", "--print-config", *options, env=env)
    assert "keyfile_password = (hidden)" in printed.stdout and "hush-hush" not in printed.stdout
    named = ["--keyfile-password", "env:KEY_PASSWORD"]
    assert names(server("probe", *options, *named, env={"KEY_PASSWORD": "hush-hush"}), issued, "a.example")


def test_page_of_tls(server, tmp_path):
    page = (ROOT / "docs" / "tls.md").read_text()
    block = re.search(r"<!-- snippet: test test_page_of_tls -->\n```sh\n(.*?)```", page, re.S)[1]
    make, serve, ask = block.replace("\\\n", " ").splitlines()
    subprocess.run(make, shell=True, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "shop.py").write_text("from wsgiref.simple_server import demo_app as app\n")
    words = serve.replace("127.0.0.1:8443", "127.0.0.1:0").split()
    running = server("", command=[MAYPOLE, *words[1:]], cwd=tmp_path, bind=False)
    words = ask.replace("8443", str(running.port)).split()
    asked = subprocess.run([*words, "--silent"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert "wsgi.url_scheme = 'https'" in asked.stdout, asked

