"""make release: every wheel that PyPI takes, and the source distribution, built, checked and tried.

    python tools/release DIRECTORY [--targets TRIPLE...] [--pythons 3.10...] [--jobs N]

The files for PyPI are in DIRECTORY/dist afterwards. The wheels are built from the source distribution alone, by maturin
with zig as the linker, so that they run on systems older than this one. Each goes through checks.py. Binaries that a Python
of this machine can run are installed into an empty environment and serve a request. The exit status is 1 if anything
failed; what this machine cannot build or run is skipped, with the reason.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import checks
import tree

sys.path.insert(0, str(tree.ROOT / "tools"))
import wheel as trial

TARGETS = [f"{machine}-unknown-linux-{libc}" for libc in ("gnu", "musl") for machine in ("x86_64", "aarch64")]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
COMPATIBILITY = {"gnu": "manylinux_2_17", "musl": "musllinux_1_2"}


@dataclasses.dataclass
class Row:
    """A wheel, and the state of its build."""

    target: str
    python: str
    path: pathlib.Path | None = None
    built: str = ""
    checked: str = ""
    ran: str = ""
    problems: list = dataclasses.field(default_factory=list)

    def name(self):
        return self.path.name if self.path else f"{self.target}, CPython {self.python}"

    def fail(self, step, *sentences):
        setattr(self, step, "FAILED")
        self.problems += sentences


def environment(source, out):
    """Returns variables for a build without this machine's Pythons. maturin knows those of the targets by itself.

    The wheel names no directory of this machine either, in panics or debug information.
    """
    changed = {name: value for name, value in os.environ.items() if not name.startswith(("PYO3_", "MATURIN_", "VIRTUAL_ENV"))}
    path = [str(pathlib.Path(sys.executable).parent), *changed.get("PATH", os.defpath).split(os.pathsep)]
    changed["PATH"] = os.pathsep.join(one for one in path if not one.endswith("/shims"))
    changed["CARGO_TARGET_DIR"] = str(out)
    remapped = {tree.cargo_home(): "/cargo", source: "/maypole"}
    changed["RUSTFLAGS"] = " ".join([changed.get("RUSTFLAGS", ""), *(f"--remap-path-prefix={a}={b}" for a, b in remapped.items())])
    return changed


def standard_library(target):
    """Returns None if Rust can build for the target, else the reason. Has rustup install what is missing."""
    where = subprocess.check_output(["rustc", "--print", "target-libdir", "--target", target], text=True).strip()
    # A distributor's cargo may be configured to build it.
    if os.environ.get("CARGO_UNSTABLE_BUILD_STD") or any(pathlib.Path(where).glob("libstd-*.rlib")):
        return None
    if shutil.which("rustup"):
        print(f"rustup target add {target}", flush=True)
        try:
            subprocess.run(["rustup", "target", "add", target], check=True, timeout=180)
            return None
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pass
    return f"no Rust standard library for {target}; run `rustup target add {target}`"


def build(row, source, scratch, wheels):
    """Builds one wheel from the unpacked source distribution."""
    libc = row.target.rsplit("-", 1)[1]
    out = scratch / row.target / row.python
    shutil.rmtree(out, ignore_errors=True)
    command = [shutil.which("maturin", path=str(pathlib.Path(sys.executable).parent)), "build", "--release", "--locked", "--zig",
               "--target", row.target, "--compatibility", COMPATIBILITY[libc], "--interpreter", f"python{row.python}",
               "--out", str(out)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=source, env=environment(source, scratch / row.target / "build"), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        row.fail("built", *done.stdout.strip().splitlines()[-30:])
        return
    (made,) = out.glob("maypole-*.whl")
    row.path = pathlib.Path(shutil.move(made, wheels / made.name))
    row.built = f"{time.monotonic() - began:.0f} s"


def interpreters():
    """Returns the Pythons of this machine by their minor version."""
    others = subprocess.check_output([sys.executable, str(tree.ROOT / "tools/pythons.py")], text=True).split()
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    return {subprocess.check_output([one, "-c", question], text=True).strip(): one for one in [sys.executable, *others]}


def libc_of_this_machine():
    return "gnu" if platform.libc_ver()[0] == "glibc" else "musl"


def run(row, pythons):
    """Installs the wheel into an empty environment and serves with it, if this machine can."""
    machine, libc = row.target.split("-")[0], row.target.rsplit("-", 1)[1]
    if machine != platform.machine():
        row.ran = f"no: this machine is {platform.machine()}"
    elif libc != libc_of_this_machine():
        row.ran = f"no: this machine has {libc_of_this_machine()} libc"
    elif row.python not in pythons:
        row.ran = f"no: no CPython {row.python} here"
    else:
        try:
            trial.install_and_serve(pythons[row.python], row.path)
            row.ran = "yes"
        except (Exception, SystemExit) as problem:
            row.fail("ran", f"{type(problem).__name__}: {problem}")


def build_target(rows, source, scratch, wheels):
    """Builds all wheels for one target in sequence, because they share Cargo's build files."""
    for row in rows:
        build(row, source, scratch, wheels)
        print(f"{row.name()}: {row.built}", flush=True)


def table(rows):
    heads = ("wheel", "built", "checked", "ran here")
    lines = [heads, *((row.name(), row.built, row.checked or "no", row.ran or "no") for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        print("  " + "  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()

    dated = tree.changelog_heading()
    if dated is None:
        sys.exit(f"CHANGELOG.md has no section \"## [{tree.version()}] - DATE\": write what this release changes")
    scratch, wheels = options.directory / "dist-build", options.directory / "dist"
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)

    sdist = tree.build_sdist(pathlib.Path(sys.executable).parent / "maturin", wheels)
    failed = list(tree.sdist_problems(sdist))
    print(f"{sdist.name}: {sdist.stat().st_size:,} bytes", flush=True)

    rows = [Row(target, python) for target in options.targets for python in options.pythons]
    skipped = {target: reason for target in options.targets if (reason := standard_library(target))}
    for row in (row for row in rows if row.target in skipped):
        row.built = "skipped"
    # The SBOM names the directory of the build, so this must not be one of the user's.
    with (tempfile.TemporaryDirectory(prefix="maypole-release-") as empty,
          concurrent.futures.ThreadPoolExecutor(options.jobs) as pool):
        source = tree.extract(sdist, empty)
        wanted = [[row for row in rows if row.target == target and not row.built] for target in options.targets]
        for future in [pool.submit(build_target, some, source, scratch, wheels) for some in wanted]:
            future.result()

    pythons = interpreters()
    for row in (row for row in rows if row.path):
        found = list(checks.Wheel(row.path, row.target, row.python).problems())
        row.checked = "ok"
        if found:
            row.fail("checked", *found)
        run(row, pythons)

    print(f"\n=== Maypole {tree.version()}: {wheels}")
    table(rows)
    for reason in skipped.values():
        print(f"skipped: {reason}")
    for row in rows:
        failed += [f"{row.name()}: {problem}" for problem in row.problems]
    if dated == "unreleased":
        print("Not ready to be published: CHANGELOG.md has no date for this version yet.")
    if tree.repository() is None:
        print("Not ready to be published: pyproject.toml has no address in [project.urls], so the README's links are left out.")
    if pages := tree.pages_before_the_first_release():
        print(f"Not ready to be published: {', '.join(pages)} say that the package is not on PyPI yet.")
    if failed:
        sys.exit("\n".join(["=== FAILED", *failed]))
    if len(skipped) == len(options.targets):
        sys.exit("=== no wheel was built")
    print("=== all that was built is well")


if __name__ == "__main__":
    main()
