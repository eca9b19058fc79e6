"""No client can starve the others, at any rate: `tools/hostile.py` sends, and a polite client measures its latency.

The bounds hold on a busy machine, and for a server that is not optimised. `make hostile` measures the promise (99 of
100 responses within 20 ms) on an otherwise idle machine.
"""

import statistics

import pytest

import hostile

SECONDS = 1.5
# A starved client waits for seconds.
MEDIAN_MAX = 0.5
LONGEST_MAX = 3


@pytest.fixture(scope="module")
def usual():
    """Returns the median latency without a hostile client, on the machine as busy as it is now."""
    with hostile.serving() as port:
        return statistics.median(hostile.measure(None, port, SECONDS)[0])


def check(name, port, usual, reads="/sha"):
    """Measures until the bounds hold: other processes may use most of the processors, so the best round counts."""
    said = []
    for _ in range(4):
        took, rate = hostile.measure(name, port, SECONDS, reads)
        median = statistics.median(took)
        if median < MEDIAN_MAX + 3 * usual and took[-1] < LONGEST_MAX:
            return
        said.append(f"half of {len(took)} answers took longer than {median:.3f} s and one {took[-1]:.3f} s; {rate}")
    pytest.fail("\n".join(said))


@pytest.mark.parametrize("name", hostile.KINDS)
def test_others_are_answered(usual, name):
    with hostile.serving(*hostile.KINDS[name][1]) as port:
        check(name, port, usual)


@pytest.mark.parametrize("name", hostile.EMBEDDED)
def test_others_are_answered_by_an_embedded_server(usual, name):
    with hostile.serving_eventlet() as port:
        check(name, port, usual, "/upload")


def test_body_of_tiny_chunks_is_written_to_its_file_read_by_read(server):
    """The application writes once for each read of the body. The process's count of writes shows how often."""
    served = server("probe", "--request-buffer", "0")
    chunks = 100_000

    def writes():
        with open(f"/proc/{served.pid}/io") as counts:
            return int(dict(line.split(": ") for line in counts)["syscw"])

    with served.client() as client:
        client.get()
        before = writes()
        client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked", body=b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
        assert client.response().body.startswith(b"%d " % chunks)
        assert writes() - before < chunks / 10


def test_application_that_reads_slowly_gets_what_it_was_sent(server):
    """The connection is woken when half of the window is free, whatever sizes the application reads."""
    served = server("probe", "--stream-requests", "always")
    body = bytes(range(256)) * 4000
    with served.client() as client:
        client.request("POST /crumbs HTTP/1.1", f"Content-Length: {len(body)}", body=body)
        assert client.response().body == body
