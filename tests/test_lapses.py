"""Violations of PEP 3333 that other servers accept: served, and logged once per application in the error log."""

import pytest

ONCE = "said once per application"


@pytest.mark.smoke
@pytest.mark.parametrize("paths, words", [
    (["/status/600", "/status/799", "/status/999"], "status '600 Own'"),
    (["/headers_tuple", "/headers_subclass"], "its headers as tuple"),
    (["/headers_subclass", "/headers_tuple"], "its headers as Listed"),
    (["/headers_generator", "/headers_items"], "its headers as generator"),
    (["/headers_pairs"], "a header as a list"),
    (["/block_list", "/block_iterated", "/block_write"], "blocks of its body as bytearray"),
])
def test_taken_with_one_warning(server, paths, words):
    running = server("lapses")
    for path in [*paths, *paths]:
        response = running.get(path)
        assert response.status == int(path.partition("status/")[2] or 200)
        assert response.body == b"body" and response.get("X-A") == "b"
    running.stop()
    text = running.err.text()
    assert text.count(ONCE) == 1 and text.count(words) == 1 and "[WARNING]" in text
    assert "[ERROR]" not in text


def test_large_bytearray_comes_whole(server):
    assert server("lapses").get("/block_large").body == b"x" * 3_000_000 + b"y"


def test_own_chunks_are_framed_and_said(server):
    running = server("lapses")
    for _ in range(3):
        assert running.get("/framing").body == b"4\r\nbody\r\n0\r\n\r\n"
        response = running.get("/hop")
        assert response.body == b"body" and response.get("Upgrade") is None and response.get("Keep-Alive") is None
    running.stop()
    text = running.err.text()
    assert text.count("'Transfer-Encoding: chunked'") == 1 and "frames chunks itself must not" in text
    assert text.count("hop-by-hop field 'Upgrade: x'") == 1
    assert text.count(ONCE) == 2


@pytest.mark.parametrize("path, status", [("/body_list", 204), ("/body_iterated", 304)])
def test_body_without_a_place_is_dropped_and_said(server, path, status):
    running = server("lapses")
    for _ in range(2):
        with running.client() as client:
            assert client.get(path).status == status
            client.assert_open("/fine")
    running.stop()
    assert running.err.text().count("a body with a status that has none") == 1


def test_body_of_a_head_is_no_lapse(server):
    running = server("lapses")
    with running.client() as client:
        for path in ["/fine", "/block_list"]:
            assert client.get(path, method="HEAD").status == 200
        assert client.get("/fine").body == b"body"
    running.stop()
    assert "a body with a status" not in running.err.text()


def test_what_is_allowed_is_not_said(server):
    running = server("lapses")
    response = running.get("/fine")
    assert (response.status, response.body, response.get("Content-Length")) == (200, b"body", " 4 ".strip())
    running.stop()
    assert ONCE not in running.err.text()
