"""What an application knows of its place: `maypole.worker()`, environ keys, variables, and the module `uwsgi`."""

import contextlib
import json
import signal
import time

import pytest

from process import eventually


def described(running):
    response = running.get("/")
    assert response.status == 200, running.err.text()
    return json.loads(response.body)


def from_each(running, name, count=2):
    """Returns an answer of each worker, by its value of `name`. The connections stay open: a worker that has fewer gets
    the next one."""
    answers = {}
    with contextlib.ExitStack() as stack:

        def all_seen():
            response = stack.enter_context(running.client()).get("/")
            assert response.status == 200, running.err.text()
            answer = json.loads(response.body)
            answers[answer[name]] = answer
            return len(answers) == count

        eventually(all_seen, what="a request at each worker")
    return answers


def test_worker_knows_its_place(server):
    before = time.time()
    running = server("places:described", "-w", "2")
    seen = from_each(running, "environ")
    for number, place in seen.items():
        assert number in (1, 2)
        assert place["variable"] == str(number)
        assert place["multiprocess"] is True
        worker = place["worker"]
        assert (worker["number"], worker["workers"], worker["generation"]) == (number, 2, 1), worker
        assert worker["supervisor"] == running.pid
        assert before <= worker["started"] <= worker["worker_started"] <= time.time()
    assert seen[1]["worker"]["started"] == seen[2]["worker"]["started"]


def test_number_of_workers_follows_the_signals(server):
    running = server("places:described", "-w", "1")
    assert described(running)["worker"]["workers"] == 1
    running.signal(signal.SIGTTIN)
    running.err.wait(r"worker 2 \(pid \d+\) serves")
    assert {place["worker"]["workers"] for place in from_each(running, "environ").values()} == {2}


def test_single_process_is_no_worker(server):
    place = described(server("places:described"))
    assert place == {"environ": None, "variable": None, "multiprocess": False, "worker": None}


def test_forked_worker_knows_its_place(server):
    running = server("places:described", "-w", "1", "--preload")
    place = described(running)
    assert (place["environ"], place["variable"]) == (1, "1")
    assert place["worker"]["supervisor"] == running.pid


UWSGI = ["--uwsgi-module", "--uwsgi-opt", "start-time=%t", "--uwsgi-opt", "name=shop"]


@pytest.mark.parametrize("preload", [[], ["--preload"]])
def test_service_that_asks_uwsgi_for_its_place_gets_an_answer(server, preload):
    before = int(time.time())
    running = server("asks_uwsgi:application", "-w", "2", *UWSGI, *preload)
    answers = from_each(running, "worker_id")
    assert set(answers) == {1, 2}
    for answer in answers.values():
        assert answer["numproc"] == 2
        assert answer["masterpid"] == running.pid
        assert before <= answer["start_time"] <= time.time()
        assert answer["start_time"] == answer["started_on"]
        assert answer["name"] == "shop"
    assert sum(answer["is_first"] for answer in answers.values()) == 1


def test_module_uwsgi_says_what_to_use_instead_of_what_it_has_not(server):
    running = server("asks_uwsgi:application", *UWSGI)
    answer = json.loads(running.get("/").body)
    assert (answer["worker_id"], answer["numproc"], answer["masterpid"]) == (1, 1, 0)
    text = running.get("/cache_get").body.decode()
    assert text == (
        "Maypole's module uwsgi has no 'cache_get': use a library for caches, such as cachetools, or a server such as Redis"
    )
    assert "its names are numproc, opt" in running.get("/no_such_name").body.decode()


def test_module_uwsgi_is_not_there_unless_it_is_asked_for(server):
    running = server("asks_uwsgi:application", ready=False)
    assert running.wait() == 4
    assert "No module named 'uwsgi'" in running.err.text()
