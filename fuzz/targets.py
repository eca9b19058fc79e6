#!/usr/bin/env python3
"""Builds the targets of libFuzzer and runs them at the same time: `targets.py --help`.

A finding is an input, which stays in a file. `--replay FILE` gives it to its target again.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import zlib

HERE = pathlib.Path(__file__).resolve().parent
TARGETS = ("head", "body", "proxy")
#: As cargo-fuzz has them, without a sanitizer, so that a stable compiler takes them.
COVERAGE = (
    "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
    " -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
)
INPUT_BYTES_MAX = 2000
V2 = b"\r\n\r\n\0\r\nQUIT\n"
PROXY = [
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    V2 + b"\x21\x11\0\x0c\xc0\0\2\7\xc6\x33\x64\1\x12\x67\1\xbb",
    V2 + b"\x21\x21\0\x24" + b"\7" * 36,
    V2 + b"\x21\x31\0\xd8" + b"/" * 216,
    V2 + b"\x20\0\0\0",
    V2 + b"\x21\x12\0\x28" + b"\3" * 40,
]
LONGEST_CHUNK = b"40\r\n" + b"0123456789abcdef" * 4 + b"\r\n0\r\n\r\n"


def seeds():
    """Returns the first inputs of each target: the corpus of requests, the chunked bodies in it, and PROXY headers."""
    requests = [path.read_bytes() for path in sorted((HERE.parent / "tests" / "requests").glob("*/*.http"))]
    requests = [request for request in requests if len(request) < INPUT_BYTES_MAX]
    assert len(requests) > 60, "the corpus is not here"
    bodies = [request.partition(b"\r\n\r\n")[2] for request in requests if b"chunked" in request.lower()]
    return {"head": requests, "body": [*filter(None, bodies), LONGEST_CHUNK], "proxy": PROXY}


def build(cargo, target):
    """Builds the targets and returns the directory of their programs."""
    told = subprocess.run([cargo, "-vV"], capture_output=True, text=True, check=True, timeout=60).stdout
    host = next(line.split()[1] for line in told.splitlines() if line.startswith("host:"))
    # With `--target`, the flags are not for build scripts and macros.
    command = [cargo, "build", "--quiet", "--manifest-path", HERE / "Cargo.toml", "--target", host]
    environment = os.environ | {"CARGO_TARGET_DIR": str(target / "fuzz"), "RUSTFLAGS": COVERAGE}
    subprocess.run(command, env=environment, check=True, timeout=3600)
    return target / "fuzz" / host / "debug"


def start(name, programs, target, inputs, arguments):
    """Starts a target on its first inputs. What it finds new stays below `target` for the next run."""
    first = target / "fuzz" / "seeds" / name
    shutil.rmtree(first, ignore_errors=True)
    kept, findings = target / "fuzz" / "corpus" / name, target / "findings"
    for directory in (first, kept, findings):
        directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs):
        (first / f"{number:04}").write_bytes(data)
    words = [f"-max_total_time={arguments.seconds}", f"-dict={HERE / 'words.dict'}", f"-max_len={INPUT_BYTES_MAX}", "-timeout=10"]
    words += [f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1"]
    words += [f"-seed={zlib.crc32(arguments.seed.encode())}"] if arguments.seed else []
    return subprocess.Popen([programs / name, *words, kept, first], stderr=subprocess.PIPE, text=True, errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cargo", default="cargo")
    parser.add_argument("--target", type=pathlib.Path, default=HERE.parent / "target", metavar="DIRECTORY", help="for build files and findings")
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS", 8)), help="how long the targets run")
    parser.add_argument("--seed", default=os.environ.get("FUZZ_SEED", ""), help="without one, each run is another")
    parser.add_argument("--build", action="store_true", help="builds the targets and runs none")
    parser.add_argument("--replay", type=pathlib.Path, metavar="FILE", help="an earlier finding, which is then the only input")
    arguments = parser.parse_args()
    target = arguments.target.resolve()
    if not shutil.which(os.environ.get("CXX", "c++")):
        print("fuzz: SKIPPED, libFuzzer needs a C++ compiler. Debian: apt install g++")
        return 0
    programs = build(arguments.cargo, target)
    if arguments.build:
        return 0
    if arguments.replay:
        name = arguments.replay.name.partition("-")[0]
        return subprocess.run([programs / name, arguments.replay], timeout=60).returncode
    first = seeds()
    started = {name: start(name, programs, target, first[name], arguments) for name in TARGETS}
    status = 0
    for name, process in started.items():
        said = process.communicate(timeout=arguments.seconds + 120)[1]
        counted = [line.split()[-1] for line in said.splitlines() if line.startswith("stat::number_of_executed_units")]
        if process.returncode or not counted or not int(counted[0]):
            print(said[-5000:])
            print(f"fuzz {name}: FAILED with {process.returncode}; `fuzz/targets.py --replay FILE` repeats it", flush=True)
            status = 1
        else:
            print(f"fuzz {name}: {counted[0]} inputs in {arguments.seconds} s, nothing found", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
