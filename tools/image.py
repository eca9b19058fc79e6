"""Builds a Dockerfile as far as a machine without a container engine can, and runs the result.

A stage is a directory. Base images have substitutes: that Debian with its own Python for `python:3.x-slim-SUITE`,
and the Rust of this machine for `rust:…`. RUN runs in a chroot as the stage's user, with its environment; COPY copies; mounts
of the type `cache` are directories that stay. A container has its own PID, network and mount namespaces.
"""

import contextlib
import fnmatch
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace

import chroot

PYTHON = re.compile(r"python:(3\.\d+)-slim-(\w+)$")
RUST = re.compile(r"rust:1(\.\d+)*-slim-\w+$")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Wrong(Exception):
    """The Dockerfile has an instruction that is wrong, or that this program does not know."""


@dataclass
class Instruction:
    """One instruction: `COPY --from=x a b` has the name COPY, the flags {"from": ["x"]}, the value "a b"."""

    line: int
    name: str
    flags: dict
    value: str

    def words(self):
        """Returns the value as a list: from exec form, or split as a shell does."""
        return self.exec_form() or shlex.split(self.value)

    def exec_form(self):
        with contextlib.suppress(ValueError):
            words = json.loads(self.value)
            if isinstance(words, list) and all(isinstance(word, str) for word in words):
                return words
        return None


def parse(text):
    """Returns the instructions of a Dockerfile."""
    found, pending, began = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not pending and not line.strip()):
            continue
        began = began or number
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1]
            continue
        found.append(instruction(began, pending + line))
        pending, began = "", 0
    if pending:
        raise Wrong(f"line {began}: the instruction does not end")
    return found


def instruction(line, text):
    name, _, rest = text.strip().partition(" ")
    flags, rest = {}, rest.strip()
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags.setdefault(match[1], []).append(match[2])
        rest = rest[match.end():]
    if name.upper() not in KNOWN:
        raise Wrong(f"line {line}: {name} is not known")
    return Instruction(line, name.upper(), flags, re.sub(r"\s{2,}", " ", rest))


KNOWN = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}


def expand(text, variables, line):
    def value(match):
        name = match[1] or match[2]
        if name not in variables:
            raise Wrong(f"line {line}: ${name} is not set")
        return variables[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


@dataclass
class Stage:
    """The state of an image during the build."""

    root: pathlib.Path
    env: dict = field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"
    user: str = "0:0"
    ports: list = field(default_factory=list)
    cmd: list = None
    healthcheck: tuple = None
    # Pairs of paths: directories of this machine that replace directories of an image.
    binds: list = field(default_factory=list)


class Builder:
    """Builds a Dockerfile's last stage and the stages that it needs, as BuildKit does."""

    def __init__(self, dockerfile, work, *, context, contexts, args):
        self.work, self.context, self.contexts, self.args = work, context, contexts, args
        self.instructions = parse(dockerfile.read_text())
        self.ignored = ignored(context / ".dockerignore")
        self.built = {}

    def build(self):
        """Returns the last stage."""
        defaults, stages, name = dict(self.args), {}, None
        for one in self.instructions:
            if one.name == "ARG" and name is None:
                key, _, value = one.value.partition("=")
                defaults.setdefault(key, value)
            elif one.name == "FROM":
                words = expand(one.value, defaults, one.line).split()
                name = words[2] if len(words) == 3 and words[1].upper() == "AS" else f"stage-{len(stages)}"
                stages[name] = (words[0], [])
            elif name is None:
                raise Wrong(f"line {one.line}: {one.name} before FROM")
            else:
                stages[name][1].append(one)
        self.stages = stages
        return self.stage(name)

    def stage(self, name):
        if name not in self.built:
            base, instructions = self.stages[name]
            root = self.work / name
            subprocess.run(["rm", "-rf", "--one-file-system", root], check=True)
            begun = self.stage(base) if base in self.stages else self.base(base)
            say(f"FROM {base} AS {name}")
            subprocess.run(["cp", "-a", "--reflink=auto", begun.root, root], check=True)
            stage = replace(begun, root=root, env=dict(begun.env), binds=list(begun.binds), ports=list(begun.ports))
            for one in instructions:
                say(f"{one.name} {''.join(f'--{k}={v} ' for k, all in one.flags.items() for v in all)}{one.value}")
                getattr(self, one.name.lower())(stage, one)
            self.built[name] = stage
        return self.built[name]

    def base(self, image):
        """Returns a substitute for a published image."""
        match = PYTHON.match(image)
        if not match:
            raise Wrong(f"nothing here stands in for the image {image}")
        python, suite = match.groups()
        name = f"python{python}"
        packages = [name, f"{name}-venv", "python3-pip", "ca-certificates", "passwd"]
        root = chroot.make(self.work.parent / f"{suite}-{name}", suite, packages)
        # The differences from Debian: the names, and that pip may install.
        for link in ("python", "python3"):
            with contextlib.suppress(FileExistsError):
                (root / "usr/local/bin" / link).symlink_to(f"/usr/bin/{name}")
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        return Stage(root)

    # --- the instructions -----------------------------------------------------------------------------------------

    def arg(self, stage, one):
        raise Wrong(f"line {one.line}: ARG inside a stage is not known here")

    def env(self, stage, one):
        for key, value in re.findall(r"(\w+)=(\S*)", one.value):
            stage.env[key] = expand(value, stage.env, one.line)

    def workdir(self, stage, one):
        stage.workdir = os.path.join(stage.workdir, expand(one.value, stage.env, one.line))
        self.inside(stage, stage.workdir).mkdir(parents=True, exist_ok=True)

    def user(self, stage, one):
        stage.user = one.value

    def expose(self, stage, one):
        stage.ports += [int(port) for port in one.value.split()]

    def cmd(self, stage, one):
        stage.cmd = one.exec_form() or ["/bin/sh", "-c", one.value]

    def healthcheck(self, stage, one):
        check = instruction(one.line, one.value)
        if check.name != "CMD":
            raise Wrong(f"line {one.line}: HEALTHCHECK without CMD")
        timeout = float(one.flags["timeout"][0].removesuffix("s"))
        stage.healthcheck = (check.exec_form() or ["/bin/sh", "-c", check.value], timeout)

    def run(self, stage, one):
        binds = list(stage.binds)
        for mount in one.flags.get("mount", []):
            options = dict(option.split("=", 1) for option in mount.split(","))
            if options.pop("type") != "cache" or set(options) != {"target"}:
                raise Wrong(f"line {one.line}: this mount is not known: {mount}")
            kept = self.work.parent / "cache" / options["target"].strip("/").replace("/", "+")
            kept.mkdir(parents=True, exist_ok=True)
            binds.append((kept, options["target"]))
        binds += [(place, there) for place, there in chroot.pip_binds() if there not in {to for _, to in binds}]
        command = one.exec_form() or ["/bin/sh", "-ec", one.value]
        env = {"HOME": "/root", **stage.env, **chroot.pip_environment()}
        user = None if stage.user == "0:0" else stage.user
        entering = chroot.entering(stage.root, command, binds, workdir=stage.workdir, env=env, user=user)
        if subprocess.run(entering, stdin=subprocess.DEVNULL).returncode:
            raise Wrong(f"line {one.line}: RUN failed")

    def copy(self, stage, one):
        *sources, destination = one.words()
        origin = one.flags.get("from", [None])[0]
        if set(one.flags) - {"from"}:
            raise Wrong(f"line {one.line}: a flag of COPY is not known: {one.flags}")
        if origin and RUST.match(origin):
            own = {"/usr/local/rustup": "RUSTUP_HOME", "/usr/local/cargo": "CARGO_HOME"}[sources[0]]
            place = os.environ.get(own, os.path.expanduser("~/." + os.path.basename(sources[0])))
            stage.binds.append((place, destination))
            return
        target = self.inside(stage, os.path.join(stage.workdir, destination))
        into = destination.endswith("/") or len(sources) > 1
        within, left_out = self.context, self.ignored
        if origin:
            within, left_out = self.stage(origin).root if origin in self.stages else self.contexts[origin], []
        for source in sources:
            places = sorted(within.glob(source.lstrip("/"))) if source != "." else [within]
            if not places:
                raise Wrong(f"line {one.line}: there is no {source} to copy")
            for place in places:
                copy_tree(place, target / place.name if into and place.is_file() else target, within, left_out)
        if origin not in self.stages:
            # Files from a context belong to root.
            subprocess.run(["chown", "-R", "0:0", target], check=True)

    def inside(self, stage, path):
        return stage.root / path.lstrip("/")


def say(text):
    print(f"--- {text}", flush=True)


def ignored(file):
    lines = file.read_text().splitlines() if file.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def is_ignored(path, patterns):
    """Returns whether a path of the context, or one of its directories, matches (`!` is not supported)."""
    parts = pathlib.PurePath(path).parts
    for count in range(1, len(parts) + 1):
        name = "/".join(parts[:count])
        for pattern in patterns:
            anywhere = pattern.startswith("**/") and fnmatch.fnmatchcase(parts[count - 1], pattern[3:])
            whole = fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
            if anywhere or whole:
                return True
    return False


def copy_tree(source, target, context, patterns):
    """Copies a file, or the contents of a directory. Symbolic links stay links."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        return

    def left_out(directory, names):
        relative = pathlib.Path(os.path.relpath(directory, context)) if patterns else None
        return {name for name in names if patterns and is_ignored(relative / name, patterns)}

    shutil.copytree(source, target, symlinks=True, ignore=left_out, dirs_exist_ok=True)


class Container:
    """A running container: `docker run`, `docker exec`, `docker stop`."""

    def __init__(self, stage, *, env=None, binds=(), read_only=False):
        self.stage = stage
        self.env = {"HOME": "/", "HOSTNAME": "container", **stage.env, **(env or {})}
        before = "ip link set lo up\n"
        if read_only:
            before += f"mount --bind {stage.root} {stage.root}; mount -o remount,ro,bind {stage.root}\n"
        command = chroot.entering(
            stage.root, stage.cmd, [*stage.binds, *binds], workdir=stage.workdir, env=self.env, user=stage.user,
            unshare=["--pid", "--net", "--fork", "--kill-child"], before=before, prefix=["setpriv", "--no-new-privs"],
        )  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def first(self):
        """Returns the number that process 1 of the container has outside."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def execute(self, command, timeout):
        """Runs a command in the container, with its user and its environment."""
        uid, gid = self.stage.user.split(":")
        settings = [f"{name}={value}" for name, value in self.env.items()]
        entering = [
            "nsenter", f"--target={self.first}", "--mount", "--pid", "--net", "--root", f"--wd=/proc/{self.first}/cwd",
            f"--setuid={uid}", f"--setgid={gid}", "env", "-i", *settings, *command,
        ]  # fmt: skip
        return subprocess.run(entering, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)

    def client(self, code, **more):
        """Runs Python code of this machine in the container's network."""
        command = ["nsenter", f"--target={self.first}", "--net", sys.executable, "-c", code]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(20)
