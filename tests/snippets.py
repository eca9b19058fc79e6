"""The code blocks of the documentation: how they are found, and how one page's blocks are run, in order.

Each fenced block has an HTML comment on the line before its fence, which readers do not see:

    <!-- snippet: file NAME -->      the block is the file NAME, for the blocks that follow; it is checked by its name
    <!-- snippet: run -->            a shell or Python block that ends with status 0; `run exit 2`: with another one
    <!-- snippet: serve [PATH] -->   serves: PATH (default /) is answered 200; SIGTERM ends it with status 0
    <!-- snippet: start [URL] -->    serves until the page's end, for the blocks that follow; ready once URL answers
    <!-- snippet: output -->         the output of the block before; `…` stands for anything, also for several lines
    <!-- snippet: skip REASON -->    cannot be run here; only its syntax is checked
    <!-- snippet: test NAME -->      the test function NAME runs it

`serve … any-exit` takes every exit status. Blocks of the language `text` need no comment.

A page's blocks share one new directory, which is also their HOME. Free ports replace those of the page (8xxx, and 80 and
443 after nginx's `listen`). Paths below this directory replace absolute paths that the machine does not have
(`/srv/shop/…`, `/run/shop.sock`). So the blocks touch nothing else.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from markdown_it import MarkdownIt

import snippet_files
from client import PATIENCE, Client, Closed
from ports import free_port
from process import MAYPOLE, ROOT, Lines, clean_environment
from snippet_files import Failure, Missing

DIRECTIVE = re.compile(r"<!--\s*snippet:\s*(\w+)\s*(.*?)\s*-->")
SHELLS = ("sh", "bash")
ACTIONS = ("file", "run", "serve", "start", "output", "skip", "test")
LISTENING = re.compile(r"listening on (\S+?),")
# Programs that blocks need and that a machine may lack. Continuous integration installs all of them.
PROGRAMS = ("nginx", "haproxy", "caddy", "curl", "openssl", "systemd-analyze")
COMMAND = re.compile(r"(?:^|[|;&(]|\bsudo|\bexec)[ \t]*({})(?![\w-])".format("|".join(PROGRAMS)), re.M)
PORT = re.compile(
    r"""((?<![\w.\]:])(?:127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\]|\*)?:       # an address, or only a colon
       |["'](?:127\.0\.0\.1|localhost|0\.0\.0\.0)?["'],\s*|\bPORT=|(?<!\S)--port[ =])  # the same in Python, and variables
       (8\d{3})\b
     |(\blisten\s+(?:127\.0\.0\.1:|\[::\]:)?)(8\d{3}|80|443)\b""",
    re.X,
)
ABSOLUTE = re.compile(r"(?<![\w./~$%}*-])/(?:run|srv|var|etc|opt|usr/local)(?:/[\w.@%+-]+)+")


@dataclasses.dataclass
class Block:
    """A code block of a page."""

    page: pathlib.Path
    line: int
    language: str
    text: str
    action: str = ""
    argument: str = ""
    # Whether the next block is its output.
    shown: bool = False

    @property
    def place(self):
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"


def pages():
    return [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    """Returns the page's code blocks, in order."""
    text = page.read_text()
    lines = text.splitlines()
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("fence", "code_block"):
            first = token.map[0]
            block = Block(page, first + 1, token.info.split()[0] if token.info.strip() else "", token.content)
            directive = DIRECTIVE.search(lines[first - 1]) if first and token.type == "fence" else None
            if directive:
                block.action, block.argument = directive[1], directive[2]
            elif block.language == "text":
                block.action = "text"
            if found and block.action == "output":
                found[-1].shown = True
            found.append(block)
    inside = {number for block in found for number in range(block.line, block.line + block.text.count("\n") + 1)}
    stray = [n + 1 for n, line in enumerate(lines) if DIRECTIVE.search(line) and n not in inside]
    attached = [block.line - 1 for block in found if block.action not in ("", "text")]
    if stray != attached:
        raise Failure(f"{page.name}: no fence follows on the comment in line {sorted({*stray} - {*attached})}")
    return found


def faults(block, tests):
    """Returns what is wrong with the block's comment, as a sentence, or None."""
    if not block.action:
        return f"{block.place}: no comment before the fence says how this block is tested (tests/snippets.py)"
    if block.action not in (*ACTIONS, "text"):
        return f"{block.place}: {block.action!r} is none of {', '.join(ACTIONS)}"
    if block.action in ("file", "skip", "test") and not block.argument:
        return f"{block.place}: {block.action} needs a word more"
    if block.action == "test" and block.argument not in tests:
        return f"{block.place}: there is no test function {block.argument}"
    if block.action in ("run", "serve", "start") and block.language not in (*SHELLS, "python"):
        return f"{block.place}: a block that runs is sh, bash or python, not {block.language!r}"
    return None


def check_syntax(block):
    """Checks the syntax of a block that is not run."""
    if block.language == "python":
        snippet_files.check_python(block.place, block.text)
    elif block.language in SHELLS:
        snippet_files.check_shell(block.place, block.text)


def executed(script):
    """Returns the script with an `exec` before its last command, so that a signal reaches that command."""
    lines = script.rstrip().replace("\\\n", " ").splitlines()
    before, joined, last = lines[-1].rpartition(" && ")
    assignments, command = re.fullmatch(r"((?:\w+=(?:'[^']*'|\"[^\"]*\"|\S*)\s+)*)(.*)", last.strip()).groups()
    lines[-1] = f"{before}{joined}{assignments}exec {command.removeprefix('exec ')}"
    return "\n".join(lines)


class Page:
    """The directory of a page, and the processes that its blocks started."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="page-"))
        # nginx's workers run as another user.
        self.directory.chmod(0o755)
        self.ports, self.files, self.started = {}, [], []
        self.output = self.complete = None
        tools = self.directory / ".bin"
        tools.mkdir()
        (tools / "maypole").symlink_to(MAYPOLE)
        # curl fails on an error status, unless the page shows its output.
        for name, more in [(".curl-shown", ""), (".curl", "fail-with-body\n")]:
            (self.directory / name).mkdir()
            (self.directory / name / ".curlrc").write_text(f"no-progress-meter\nmax-time = 20\n{more}")
        path = [str(tools), os.path.dirname(sys.executable), os.environ["PATH"], "/usr/sbin", "/sbin"]
        self.env = clean_environment(
            PATH=os.pathsep.join(path), HOME=str(self.directory), TMPDIR="/tmp", SNIPPETS=str(self.directory),
            LC_ALL="C.UTF-8", PYTHONUNBUFFERED="1",
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            for block, process, lines in reversed(self.started):
                self.end(block, process, lines, any_exit=True)
        finally:
            self.kill_the_rest()
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- names that the machine does not have ---------------------------------------------------------------------

    def port(self, number):
        if number not in self.ports:
            self.ports[number] = free_port()
        return str(self.ports[number])

    def path(self, match):
        if os.path.exists(match[0]):
            return match[0]
        path = self.directory / match[0][1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def local(self, text):
        """Returns the text with ports and paths that a test may use."""
        text = PORT.sub(lambda match: (match[1] or match[3]) + self.port(match[2] or match[4]), text)
        return ABSOLUTE.sub(self.path, text)

    def original(self, text):
        """Returns the text as a reader would see it."""
        for number, port in self.ports.items():
            text = re.sub(rf"\b{port}\b", number, text)
        return re.sub(rf"{re.escape(str(self.directory))}(?=/(?:run|srv|var|etc|opt|usr)/)", "", text)

    # --- blocks ---------------------------------------------------------------------------------------------------

    def play(self, block):
        getattr(self, block.action)(block)

    def text(self, block):
        """Does nothing, because the block is a sketch."""

    def skip(self, block):
        check_syntax(block)

    def test(self, block):
        check_syntax(block)

    def file(self, block):
        name = pathlib.PurePath(block.argument)
        if ".." in name.parts:
            raise Failure(f"{block.place}: {name} is not below the page's directory")
        path = self.directory / str(name).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        unit = path.suffix in snippet_files.UNITS
        path.write_text(block.text if unit else self.local(block.text))
        self.files.append((block, path))
        if not unit:
            snippet_files.check(block.place, path, self)

    def check_units(self):
        """Checks all units after the last block, because units name each other."""
        units = [(block.place, path) for block, path in self.files if path.suffix in snippet_files.UNITS]
        if units:
            snippet_files.check_units(units, self)

    def run(self, block):
        expected = int(block.argument.removeprefix("exit ") or 0)
        curl = self.directory / (".curl-shown" if block.shown else ".curl")
        env = {**self.env, **self.default_address(block), "CURL_HOME": str(curl)}
        done = subprocess.run(
            self.command(block), cwd=self.directory, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=3 * PATIENCE, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self.output, self.complete = (lambda: done.stdout), True
        if done.returncode != expected:
            raise Failure(f"{block.place}: exit status {done.returncode}\n{done.stdout[-4000:]}")

    def output_of_last(self):
        return "\n".join(line.rstrip() for line in self.original(self.output()).strip().splitlines())

    def serve(self, block):
        path = next((word for word in block.argument.split() if word.startswith("/")), "/")
        process, lines = self.launch(block)
        try:
            response = self.ask(self.wait_ready(block, process, lines), path)
            if response.status != 200:
                raise Failure(f"{block.place}: {path} is answered {response}\n{lines.text()[-4000:]}")
        except (Closed, OSError) as error:
            self.end(block, process, lines, any_exit=True)
            raise Failure(f"{block.place}: {path} is not answered: {error!r}\n{lines.text()[-4000:]}") from error
        except BaseException:
            self.end(block, process, lines, any_exit=True)
            raise
        self.end(block, process, lines, any_exit="any-exit" in block.argument)

    def start(self, block):
        process, lines = self.launch(block)
        self.started.append((block, process, lines))
        if block.argument.startswith("http"):
            host, _, path = block.argument.partition("//")[2].partition("/")
            self.wait(lambda: self.answers(self.local(f" {host}").strip(), f"/{path}"), block, process, lines)
        else:
            self.wait_ready(block, process, lines)

    def output_matches(self, text):
        pattern = ""
        for line in text.strip().splitlines():
            escaped = re.escape(line.rstrip()).replace("…", r"[\s\S]*?")
            pattern += r"(?:[^\n]*\n)*" if line.strip() == "…" else escaped + r"\n"
        return (re.fullmatch if self.complete else re.search)(pattern, self.output_of_last() + "\n")

    # --- processes ------------------------------------------------------------------------------------------------

    def command(self, block):
        for program in COMMAND.findall(block.text) if block.language in SHELLS else ():
            snippet_files.needs(block.place, program, self)
        text = self.local(block.text)
        if block.language == "python":
            script = self.directory / f"snippet_{block.line}.py"
            script.write_text(text)
            return [sys.executable, str(script)]
        return ["bash", "-ec", text if block.action == "run" else executed(text)]

    def default_address(self, block):
        """Returns variables for a server without an address, so that it listens on a free port."""
        if PORT.search(block.text) or re.search(r"MAYPOLE_BIND|--bind|(?<!\w)-b\b|--host|--check|--print", block.text):
            return {}
        return {"MAYPOLE_BIND": f"127.0.0.1:{self.port('8000')}"}

    def launch(self, block):
        process = subprocess.Popen(
            self.command(block), cwd=self.directory, env={**self.env, **self.default_address(block)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        lines = Lines(process.stdout)
        self.output, self.complete = lines.text, False
        return process, lines

    def wait_ready(self, block, process, lines):
        """Waits until the server logs its address or accepts on a port of the block. Returns the address."""
        ports = [number for pair in PORT.findall(block.text) for number in (pair[1], pair[3]) if number]

        def ready():
            if match := LISTENING.search(lines.text()):
                address = match[1]
                if address.startswith("unix:") and not address.startswith(("unix:/", "unix:@")):
                    address = f"unix:{self.directory}/{address[len('unix:'):]}"
                return address
            return next((f"127.0.0.1:{self.ports[n]}" for n in ports if self.answers(f"127.0.0.1:{self.ports[n]}")), None)

        return self.wait(ready, block, process, lines)

    def wait(self, condition, block, process, lines):
        end = time.monotonic() + 2 * PATIENCE
        while True:
            value = condition()
            if value:
                return value
            if process.poll() is not None:
                lines.settle()
                raise Failure(f"{block.place}: ended with {process.returncode} before it was ready\n{lines.text()[-4000:]}")
            if time.monotonic() > end:
                raise Failure(f"{block.place}: not ready\n{lines.text()[-4000:]}")
            time.sleep(0.02)

    @staticmethod
    def ask(address, path, timeout=PATIENCE):
        """Returns the response to a request whose Host is the address, because frameworks check it."""
        host = "localhost" if address.startswith("unix:") else address.rpartition("//")[2]
        with Client(address, timeout=timeout) as client:
            return client.request(f"GET {path} HTTP/1.1", "Connection: close", host=host).response()

    def answers(self, address, path=None):
        """Returns whether a connection can be made and, with a path, whether its response is 200."""
        with contextlib.suppress(Closed, OSError):
            if path is None:
                Client(address, timeout=2).close()
                return True
            return self.ask(address, path, timeout=2).status == 200
        return False

    @staticmethod
    def end(block, process, lines, any_exit):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
            raise Failure(f"{block.place}: SIGTERM does not end it\n{lines.text()[-4000:]}") from None
        lines.settle()
        if status and not any_exit:
            raise Failure(f"{block.place}: SIGTERM ended it with status {status}\n{lines.text()[-4000:]}")

    def kill_the_rest(self):
        """Ends processes that the blocks left running, such as an nginx. Their variable or directory shows them."""
        mark = f"SNIPPETS={self.directory}".encode()
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = os.readlink(entry / "cwd").startswith(f"{self.directory}")
                if ours or mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def play(page, tests):
    """Runs the page's blocks. Returns the programs that this machine lacks."""
    found = blocks(page)
    wrong = [fault for block in found if (fault := faults(block, tests))]
    if wrong:
        raise Failure("\n".join(wrong))
    missing = []
    with Page() as directory:
        for block in found:
            try:
                if block.action == "output":
                    check_output(directory, block)
                else:
                    directory.play(block)
            except Missing as program:
                missing.append(str(program))
                if block.action != "file":
                    # The following blocks may depend on it.
                    return missing
        try:
            directory.check_units()
        except Missing as program:
            missing.append(str(program))
    return missing


def check_output(directory, block):
    if directory.output is None:
        raise Failure(f"{block.place}: no block was run before this output")
    end = time.monotonic() + PATIENCE
    while not directory.output_matches(block.text):
        if directory.complete or time.monotonic() > end:
            raise Failure(f"{block.place}: the output is\n{directory.output_of_last()[-4000:]}")
        time.sleep(0.02)
