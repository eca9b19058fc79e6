"""Runs or checks each code block of the documentation as its comment says. snippets.py has the rules.

There is one test for each page. A block that cannot be run here has a test that is skipped with the reason.
"""

import contextlib
import os
import pathlib
import re
import tempfile

import pytest

import snippets
from process import ROOT

TESTS = set(re.findall(r"^def (test_\w+)\(", "\n".join(p.read_text() for p in (ROOT / "tests").glob("test_*.py")), re.M))


def name_of(page):
    return str(page.relative_to(ROOT))


def skipped_blocks():
    found = []
    for page in snippets.pages():
        # A page that cannot be read fails in its own test.
        with contextlib.suppress(snippets.Failure):
            found += [block for block in snippets.blocks(page) if block.action == "skip"]
    return found


@pytest.mark.parametrize("page", snippets.pages(), ids=name_of)
def test_page(page):
    try:
        missing = snippets.play(page, TESTS)
    except snippets.Failure as failure:
        pytest.fail(str(failure), pytrace=False)
    if missing:
        pytest.skip("; ".join(missing))


@pytest.mark.parametrize("block", skipped_blocks(), ids=lambda block: block.place)
def test_block_that_cannot_be_run_here(block):
    try:
        snippets.check_syntax(block)
    except snippets.Failure as failure:
        pytest.fail(str(failure), pytrace=False)
    pytest.skip(f"{block.place}: {block.argument}")


# --- the rules themselves -----------------------------------------------------------------------------------------

GOOD = """
<!-- snippet: file app.py -->
```python
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello\\n"]
```

1. In a list:

   <!-- snippet: start -->
   ```sh
   maypole \\
       --pool-size 7 app
   ```

<!-- snippet: output -->
```text
… listening on http://127.0.0.1:8000, pool size 7
```

<!-- snippet: run -->
```sh
curl -i http://127.0.0.1:8000/
```

<!-- snippet: output -->
```text
HTTP/1.1 200 OK
…

Hello
```

<!-- snippet: run exit 3 -->
```python
import sys
sys.exit(3)
```

<!-- snippet: serve /x -->
```sh
mkdir -p /srv/nothing/here
maypole --bind unix:/run/nothing.sock app
```

<!-- snippet: file shop.env -->
```sh
MAYPOLE_POOL_SIZE=5
OTHER=x y
```
"""


def play(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    return snippets.play(page, {"test_page"})


def test_rules_good_page_passes_and_leaves_nothing(tmp_path, monkeypatch):
    # Pages in other tests at the same time have their directories elsewhere.
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        assert play(tmp_path, GOOD) == []
        assert not os.listdir(name)
    assert not pathlib.Path("/srv/nothing").exists()


@pytest.mark.parametrize("text, why", [
    ("```sh\ntrue\n```\n", "no comment before the fence"),
    ("    an indented block\n", "no comment before the fence"),
    ("<!-- snippet: run -->\n\n```sh\ntrue\n```\n", "no fence follows"),
    ("<!-- snippet: runs -->\n```sh\ntrue\n```\n", "'runs' is none of file, run,"),
    ("<!-- snippet: run -->\n```sh\nfalse\ntrue\n```\n", "exit status 1"),
    ("<!-- snippet: run -->\n```python\nimport nothing_like_it\n```\n", "ModuleNotFoundError"),
    ("<!-- snippet: run -->\n```sh\necho a b\n```\n<!-- snippet: output -->\n```text\na … c\n```\n", "the output is"),
    ("<!-- snippet: skip no cluster -->\n```sh\nif\n```\n", "no shell script"),
    ("<!-- snippet: skip -->\n```sh\ntrue\n```\n", "needs a word more"),
    ("<!-- snippet: test test_nothing -->\n```sh\ntrue\n```\n", "there is no test function"),
    ("<!-- snippet: serve -->\n```sh\nmaypole nothing_like_it\n```\n", "ended with 4 before it was ready"),
    ("<!-- snippet: file a.py -->\n```python\nx = \n```\n", "no Python"),
    ("<!-- snippet: file a.json -->\n```json\n{\n```\n", "cannot be read"),
    ("<!-- snippet: file a.yaml -->\n```yaml\na: [\n```\n", "cannot be read"),
    ("<!-- snippet: file a.env -->\n```sh\nMAYPOLE_POOL_SIZE=many\n```\n", "MAYPOLE_POOL_SIZE"),
    ("<!-- snippet: file ../a -->\n```sh\n```\n", "is not below"),
    ("<!-- snippet: file a.service -->\n```ini\n[Service]\nExecStart=/x/maypole --nothing a\n```\n", "--nothing"),
    ("<!-- snippet: output -->\n```text\n```\n", "no block was run"),
])  # fmt: skip
def test_rules_bad_page_fails(tmp_path, text, why):
    with pytest.raises(snippets.Failure, match=re.escape(why)):
        play(tmp_path, text)


@pytest.mark.parametrize("text, why", [
    ("<!-- snippet: file nginx.conf -->\n```nginx\nserver { listen 80; nothing; }\n```\n", "nothing"),
    ("<!-- snippet: file haproxy.cfg -->\n```text\nnothing\n```\n", "nothing"),
    ("<!-- snippet: file a.service -->\n```ini\n[Service]\nExecStart=/x/y\nNothing=1\n```\n", "Nothing"),
])  # fmt: skip
def test_rules_bad_configuration_fails(tmp_path, text, why):
    try:
        with pytest.raises(snippets.Failure, match=why):
            play(tmp_path, text)
            pytest.fail("it is taken")
    except snippets.Missing as program:
        pytest.skip(str(program))


def test_rules_missing_program_stops_the_page_and_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(snippets.snippet_files.shutil, "which", lambda *_, **__: None)
    text = "<!-- snippet: run -->\n```sh\ncurl http://127.0.0.1:8000/\n```\n<!-- snippet: run -->\n```sh\nfalse\n```\n"
    assert play(tmp_path, text) == [f"{tmp_path}/page.md:2 needs curl"]
