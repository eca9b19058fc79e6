"""A short run of the fuzzers: every kind of damaged connection, buffered and streamed, without a finding."""

import subprocess
import sys

from client import PATIENCE
from process import MAYPOLE, ROOT, clean_environment

SECONDS = 20


def test_fuzz_short_finds_nothing(tmp_path, record_property):
    command = [ROOT / "fuzz" / "connection" / "drive.py", "--binary", MAYPOLE, "--minutes", str(SECONDS / 60), "--seed", "short", "--findings", tmp_path]
    ended = subprocess.run([sys.executable, *map(str, command)], env=clean_environment(), capture_output=True, text=True, timeout=SECONDS + 6 * PATIENCE)
    assert ended.returncode == 0, f"{ended.stdout[-5000:]}\n{ended.stderr[-3000:]}"
    record_property("summary", ended.stdout)


def test_fuzz_of_http2_finds_nothing(tmp_path, record_property):
    command = [ROOT / "fuzz" / "connection" / "http2.py", "--binary", MAYPOLE, "--minutes", str(SECONDS / 60), "--seed", "short", "--findings", tmp_path]
    ended = subprocess.run([sys.executable, *map(str, command)], env=clean_environment(), capture_output=True, text=True, timeout=SECONDS + 12 * PATIENCE)
    assert ended.returncode == 0, f"{ended.stdout[-5000:]}\n{ended.stderr[-3000:]}"
    record_property("summary", ended.stdout)
