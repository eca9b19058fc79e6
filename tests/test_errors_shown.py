"""The last errors and warnings of all processes, in `/errors.json`."""

import os
import signal

import pytest

from process import eventually
from status import Status


@pytest.mark.parametrize("kind", [(), ("-w", "2")], ids=["alone", "workers"])
def test_error_is_shown_with_its_process_and_its_exception(server, kind):
    running = server("probe", *kind, "--status-bind", "0")
    status = Status(running)
    assert status.json("/errors.json") == {"errors": []}
    for path in ("/fail?one", "/fail?two"):
        assert running.get(path).status == 500
    rows = status.json("/errors.json")["errors"]
    processes = {one["pid"]: one["number"] for one in status.json()["processes"]}
    assert ["GET /fail?two HTTP/1.1" in rows[0]["message"], "GET /fail?one HTTP/1.1" in rows[1]["message"]] == [True, True]
    for row in rows:
        assert (row["level"], row["end"]) == ("ERROR", "ValueError: made to fail")
        assert processes[row["pid"]] == row["worker"]
    # The counts of a process are shown from time to time.
    eventually(lambda: status.metric('maypole_log_lines_total{level="error"}') == 2, what="the count of the lines")


def test_errors_of_a_worker_stay_after_its_end_and_the_supervisor_has_its_own(server):
    running = server("probe", "-w", "1", "--status-bind", "0")
    status = Status(running)
    assert running.get("/fail").status == 500
    worker, = status.json("/errors.json")["errors"]
    os.kill(worker["pid"], signal.SIGKILL)
    running.err.wait(rf"worker 1 \(pid (?!{worker['pid']}\))\d+\) serves")
    rows = status.json("/errors.json")["errors"]
    assert rows[-1] == worker
    assert any(row["worker"] is None and row["pid"] == running.pid and str(worker["pid"]) in row["message"] for row in rows)
    eventually(lambda: status.metric('maypole_log_lines_total{level="error"}') >= 1, what="the count of the lines")
