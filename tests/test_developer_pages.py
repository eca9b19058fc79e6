"""The pages for people who change Maypole: every file, name, setting, command and thread on them exists."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import snippets
from client import PATIENCE
from process import ROOT, clean_environment, run
from test_links import FILES

ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [ARCHITECTURE, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
SPAN = re.compile(r"``(.+?)``|`([^`\n]+)`")
FENCED = re.compile(r"^( *)```.*?^\1```$", re.S | re.M)
PATH = re.compile(r"[\w.-]*/[\w./-]*|[\w-]+\.(?:rs|py|md|toml|json|txt)")
NAME = re.compile(r"[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*")
DEFINED = re.compile(r"\b(?:fn|struct|enum|trait|type|mod|static|const|union|macro_rules!)\s+([A-Za-z_]\w*)")
FIELD = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?([a-z_]\w*):\s", re.M)
VARIANT = re.compile(r"^\s+([A-Z]\w*)(?:\s*[({].*)?(?: = .*)?,?$", re.M)
# Words of others: Python's, the kernel's, the libraries', HTTP's, and settings of other programs.
FOREIGN = {
    "CONTENT_LENGTH", "Clone", "Drop", "MAYPOLE", "SKIPPED", "_max", "bytes", "cheaper", "common", "docs", "expect",
    "header_bytes", "may", "multiprocessing", "pedantic", "perf", "recv", "send", "socket2", "threading", "unsafe",
    "unwrap", "utils", "x.rs", "x/",
}  # fmt: skip


def spans(page):
    """Yields the page's code spans, without those in its code blocks."""
    for double, single in SPAN.findall(FENCED.sub("", page.read_text())):
        yield double or single


def rust():
    """Returns the text of each Rust file of the source, without comments."""
    return {path: re.sub(r"//.*", "", path.read_text()) for path in sorted((ROOT / "src").rglob("*.rs"))}


SOURCE = rust()
DEFINITIONS = {
    path: {*DEFINED.findall(text), *FIELD.findall(text), *VARIANT.findall(text)} for path, text in SOURCE.items()
}
MODULES = {path.stem for path in SOURCE}
TESTS = set(re.findall(r"def test_(\w+)\(", "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))))
EVERYTHING = MODULES.union(*DEFINITIONS.values())


def is_defined(name):
    """Returns whether the source defines `name`. For `Type::item` and `module::item`, one file must define both."""
    first, _, last = name.rpartition("::")
    if not first:
        return name in EVERYTHING
    owner = first.rpartition("::")[2]
    implemented = re.compile(rf"\bimpl\b[^{{]*\b{owner}\b")
    return any(
        owner in names or owner in (*path.parts, path.stem) or implemented.search(SOURCE[path])
        for path, names in DEFINITIONS.items()
        if last in names
    )


def make_targets():
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def options():
    return set(re.findall(r"--[a-z][\w-]*", run("--help").stdout)) | {"--version"}


def benches():
    return set(re.findall(r"^name = \"(\w+)\"", (ROOT / "Cargo.toml").read_text(), re.M))


def rust_tests():
    tests = ROOT / "tests"
    return {path.stem for path in tests.glob("*.rs")} | {path.parent.name for path in tests.glob("*/main.rs")}


def fault(span):
    """Returns what is wrong with a code span, or None."""
    if match := re.fullmatch(r"make ([\w-]+)(?: [A-Z]+=\S+)*", span):
        return None if match[1] in make_targets() else "no such target of make"
    if match := re.fullmatch(r"cargo bench --bench (\w+)(?: -- .*)?", span):
        return None if match[1] in benches() else "no such bench"
    if match := re.match(r"(?:MAYPOLE_BLESS=1 )?cargo test --test (\w+)", span):
        return None if match[1] in rust_tests() else "no such test"
    if re.fullmatch(r"--[\w-]+", span):
        return None if span in options() else "no such setting"
    if re.fullmatch(r"maypole-\w+-?", span):
        return None if any(f'"{span}' in text for text in SOURCE.values()) else "no such thread"
    if span in FOREIGN or span.startswith("target/"):
        return None
    if PATH.fullmatch(span):
        return None if (ROOT / span).exists() else "no such file"
    if NAME.fullmatch(span):
        return None if is_defined(span) or span in TESTS else "the source has no such name"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_page_exist(page):
    faults = [f"`{span}`: {why}" for span in spans(page) if (why := fault(span))]
    assert not faults, "\n".join(faults)


def test_every_word_of_others_is_on_a_page():
    used = {span for page in PAGES for span in spans(page)}
    assert not FOREIGN - used


def test_what_the_guard_says_is_in_its_source():
    section = PAGES[1].read_text().partition("\n## The guard\n")[2].partition("\n## ")[0]
    phrases = re.findall(r"^\* `(.+?)`", section, re.M)
    assert len(phrases) == 5
    source = (ROOT / "benches" / "guard.py").read_text()
    assert not [phrase for phrase in phrases if " ".join(phrase.split()[:2]) not in source]


def glossary():
    """Returns the table of words: each word, its names in the source, and the words that are not used."""
    section = ARCHITECTURE.read_text().partition("\n## Words\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in cells] for cells in lines[1:]]
    words = [[word.strip() for word in avoided.split(",") if word] for *_, avoided in rows]
    names = [[name for _, name in SPAN.findall(cell)] for _, _, cell, _ in rows]
    return [(row[0], *more) for *more, row in zip(names, words, rows)]


def test_names_of_a_trip_are_in_the_file_of_their_row():
    section = ARCHITECTURE.read_text().partition("\n## Five trips\n")[2].partition("\n## ")[0]
    rows = [SPAN.findall(line) for line in section.splitlines() if line.startswith("| `")]
    assert section.count("\n### ") == 5 and len(rows) > 25
    missing = []
    for (_, file), *names in rows:
        text = (ROOT / file).read_text()
        names = [name for _, name in names if NAME.fullmatch(name)]
        missing += [f"{file}: `{name}`" for name in names if not re.search(rf"\b{name}\b", text)]
    assert not missing, "\n".join(missing)


def test_words_of_the_glossary_are_in_the_source():
    words = glossary()
    assert len(words) > 20
    missing = [f"{word}: `{name}`" for word, names, _ in words for name in names if not is_defined(name)]
    assert not missing, "\n".join(missing)


def test_words_that_the_glossary_replaces_are_in_no_name():
    avoided = {word: instead for instead, _, words in glossary() for word in words}
    assert avoided
    found = []
    for path, names in DEFINITIONS.items():
        for name in names:
            parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
            found += [f"{path.relative_to(ROOT)}: `{name}`; say {avoided[part]}" for part in parts if part in avoided]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("span, why", [
    ("src/nothing.rs", "no such file"), ("make nothing", "no such target of make"), ("--nothing", "no such setting"),
    ("Server::nothing", "the source has no such name"), ("NoSuchThing", "the source has no such name"),
    ("cargo bench --bench nothing", "no such bench"), ("cargo test --test nothing", "no such test"),
    ("maypole-nothing", "no such thread"),
    ("src/lib.rs", None), ("make guard", None), ("--pool-size", None), ("Server::start", None), ("maypole-log", None),
    ("cargo bench --bench pools", None),
])  # fmt: skip
def test_name_that_does_not_exist_is_found(span, why):
    assert fault(span) == why


def test_bless_is_described_for_every_test_that_has_it():
    reads = r"(environ|var_os|env::var)\S*\(?\"MAYPOLE_BLESS"
    done = subprocess.run(["git", "grep", "-lE", reads], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        pytest.skip("this is no git repository")
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.partition("MAYPOLE_BLESS")[2]
    users = [path for path in done.stdout.split() if path != "tests/test_developer_pages.py"]
    assert len(users) > 3
    missing = [path for path in users if path.rpartition("/")[2].partition(".")[0] not in section]
    assert not missing


@pytest.mark.slow
def test_commands_of_the_page_run():
    """Runs the blocks of CONTRIBUTING.md that name this test as one script, in the repository."""
    if not shutil.which("cargo"):
        pytest.skip("cargo is missing")
    # One command tests a server inside a program.
    pytest.importorskip("maypole")
    built = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    env = clean_environment(PYO3_PYTHON=os.environ.get("PYO3_PYTHON", sys._base_executable))
    env = {name: value for name, value in env.items() if not name.startswith("PYTEST")}
    page = ROOT / "CONTRIBUTING.md"
    before = blessed()
    blocks = [block for block in snippets.blocks(page) if block.argument == "test_commands_of_the_page_run"]
    assert len(blocks) > 3
    script = "".join(block.text for block in blocks).replace("target/venv/bin/python", sys.executable)
    script = script.replace("$PWD/target/debug", f"{built}/debug")
    # make has set this variable, maybe to another Python than the first one in PATH.
    script = script.replace("export PYO3_PYTHON=", ": ")
    done = subprocess.run(
        ["bash", "-exc", script], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=60 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert blessed() == before, "a file that is blessed was not up to date"


def blessed():
    """Returns the contents of the files that these commands write."""
    generated = [ROOT / "docs/reference/settings.md", ROOT / "python/maypole/_settings.py"]
    return [path.read_bytes() for path in [*ROOT.glob("docs/from-*.md"), *generated]]


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith(".md") and "/runs/" not in path])
def test_prose_ends_before_column_121(path):
    """Tables, code and the section that is made from the settings are left out."""
    text = re.sub(r"<!-- settings:begin -->.*<!-- settings:end -->", "", (ROOT / path).read_text(), flags=re.S)
    wide = [line for line in FENCED.sub("", text).splitlines() if len(line) > 120]
    long = [line for line in wide if not re.match(r"\s*\||`[^`]*`$", line)]
    assert not long, "\n".join(long)
