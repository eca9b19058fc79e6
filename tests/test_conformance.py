"""The judges of tests/conformance: they find the faults of a response, and no suite passes without its cases."""

import socket
import subprocess
import sys
import threading

import pytest

from client import PATIENCE
from process import ROOT, clean_environment

CONFORMANCE = ROOT / "tests" / "conformance"
sys.path.append(str(CONFORMANCE))

import suite  # noqa: E402
import wire  # noqa: E402
from http1 import exchange, words  # noqa: E402



@pytest.mark.parametrize("received, method, status, body, fault", [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", 200, b"abc", None),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", 200, b"", None),
    (b"HTTP/1.1 204 No\r\n\r\n", "GET", 204, b"", None),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n", "GET", 200, b"abc", None),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc0\r\n\r\n", "GET", 200, b"ab", "does not end with CRLF"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n", "GET", 200, b"", "bad chunk size"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "GET", 200, b"2\r\nab\r\n", "cut short"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "GET", 200, b"ab", "shorter than"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "GET", 200, b"a", "more than once"),
    (b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", "GET", 204, b"", "Content-Length in 204"),
    (b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n", "GET", 200, b"", "bad field line"),
    (b"HTTP/1.1 OK\r\n\r\nabc", "GET", -1, b"", "bad status line"),
])  # fmt: skip
def test_response_is_parsed_with_its_faults(received, method, status, body, fault):
    response, used = wire.parse_response(received, True, method)
    assert (response.status, response.body, used) == (status, body, len(received))
    if fault is None:
        assert response.faults == []
    else:
        assert any(fault in found for found in response.faults), response.faults


@pytest.mark.parametrize("received", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nabc",
])  # fmt: skip
def test_response_that_is_not_whole_is_waited_for(received):
    assert wire.parse_response(received, False, "GET") == (None, 0)


@pytest.fixture
def play():
    """Plays a case against a server that reads once, sends the given bytes, and closes the connection if told to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def play(case, sends, closes):
            def serve():
                with listener.accept()[0] as stream:
                    stream.settimeout(PATIENCE)
                    while stream.recv(1 << 16):
                        stream.sendall(sends)
                        if closes:
                            return

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                return exchange.judge(case, listener.getsockname(), 1.0)
            finally:
                thread.join(PATIENCE)

        yield play


def case(*outcomes, **more):
    return exchange.Case("a-case", "RFC9112", "MUST", [words.request()], list(outcomes), **more)


EMPTY = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n"


def test_case_with_another_status_or_another_end_fails(play):
    closed = words.outcome(words.response(200), end=words.CLOSE)
    assert play(case(closed), EMPTY, closes=True).passed
    assert play(case(words.BAD_REQUEST, closed), EMPTY, closes=True).passed
    for wrong in (words.BAD_REQUEST, words.outcome(words.response(200)), words.DROPPED):
        verdict = play(case(wrong), EMPTY, closes=True)
        assert not verdict.passed and verdict.seen, wrong


def test_second_response_to_one_request_is_out_of_step(play):
    verdict = play(case(words.outcome(words.response(200), end=words.ANY)), EMPTY, closes=False)
    assert not verdict.passed and "desync" in verdict.seen


def test_invariants_see_a_missing_and_a_wrong_date(play):
    whole = case(words.outcome(words.response(200), end=words.CLOSE))
    for sends, name in [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "inv-date"),
        (b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 0\r\n\r\n", "inv-date-form"),
        (EMPTY, "inv-date-clock"),
        (EMPTY, "inv-close-announced"),
        (EMPTY.replace(b"HTTP/1.1", b"HTTP/2.0"), "inv-version"),
    ]:
        verdict = play(whole, sends, closes=True)
        failed = {found.name for found in exchange.verdicts_on_invariants([verdict]) if not found.passed}
        assert name in failed, (name, failed)


def verdict(name, passed):
    return suite.Verdict(name, "SHOULD", "RFC9112", passed, "")


@pytest.mark.parametrize("verdicts, argued, passed", [
    ([verdict("a", True)], {}, True),
    ([verdict("a", True), verdict("b", False)], {}, False),
    ([verdict("a", True), verdict("b", False)], {"b": "the reason"}, True),
    ([verdict("a", True)], {"a": "the reason"}, False),
    ([], {}, False),
])  # fmt: skip
def test_suite_passes_only_with_cases_that_pass_or_are_argued(verdicts, argued, passed, capsys):
    assert suite.summary("suite", "server", verdicts, argued) is passed


def test_failed_case_is_judged_again_alone():
    judged = []

    def judge(case):
        judged.append(case)
        return verdict(case.name, judged.count(case) == 2)

    first = case()
    assert suite.judge_all([first], judge, at_once=2, argued={})[0].passed
    assert len(judged) == 2


def test_server_that_ends_fails_the_suites(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    command = [sys.executable, CONFORMANCE, broken, "--only", "^rl-get$"]
    ended = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=6 * PATIENCE)
    assert ended.returncode == 1
    assert "FAIL http1 binary: the server ended with 3" in ended.stdout


def test_suites_have_their_cases():
    command = [sys.executable, CONFORMANCE, "--list"]
    listed = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE)
    assert listed.returncode == 0
    # 214 of HTTP/1.1 and 99 of PEP 3333.
    assert len(listed.stdout.splitlines()) >= 313
