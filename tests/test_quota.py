"""`--workers auto` counts the quota of a real control group (cgroups(7)), in version 2 or in version 1."""

import contextlib
import os
import pathlib

import pytest

from deployment import alone  # noqa: F401 (a fixture)

ROOT = pathlib.Path("/sys/fs/cgroup")
PERIOD_US = 100_000


def groups():
    """Returns the directory in which a group can be made, and how its quota is written."""
    with contextlib.suppress(OSError):
        if "cpu" in (ROOT / "cgroup.subtree_control").read_text().split():
            return ROOT, lambda group, quota: (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
    first = ROOT / "cpu"
    if (first / "cpu.cfs_quota_us").exists() or (first / "cgroup.procs").exists():
        return first, lambda group, quota: (group / "cpu.cfs_quota_us").write_text(str(quota))
    return None


@pytest.fixture
def limited(server, alone):  # noqa: F811
    """Starts a server in a new group with this quota, in microseconds of each 100 ms."""
    found = groups()
    if found is None or not os.access(found[0], os.W_OK) or os.geteuid() != 0:
        pytest.skip("no control group with a quota may be made here")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a quota is not seen on a single processor")
    parent, set_quota = found
    group = parent / f"maypole-test-{os.getpid()}"
    group.mkdir()
    started = []

    def start(quota_us, *args):
        set_quota(group, quota_us)
        running = server("probe", *args, preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()
    group.rmdir()


@pytest.mark.parametrize(("quota_us", "workers"), [(50_000, "1 worker"), (150_000, "1 worker"), (200_000, "2 workers")])
def test_auto_starts_a_worker_for_each_whole_processor_of_the_quota(limited, quota_us, workers):
    running = limited(quota_us, "--workers", "auto")
    assert running.err.wait(r"pool size \d+, (\d+ workers?) \(pid ")[1] == workers
