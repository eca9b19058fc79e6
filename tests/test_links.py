"""Links between the pages of this repository, as GitHub follows them: every file and every anchor exists."""

import os
import re
import subprocess
import urllib.parse

import pytest
from markdown_it import MarkdownIt

from process import ROOT


def tracked():
    done = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git repository", allow_module_level=True)
    return [path for path in done.stdout.splitlines() if (ROOT / path).exists()]


FILES = tracked()
DIRECTORIES = {parent for path in FILES for parent in (str(p) for p in (ROOT / path).relative_to(ROOT).parents)}
PAGES = [path for path in FILES if path.endswith(".md")]


def tokens(path):
    return MarkdownIt("commonmark").enable("table").parse((ROOT / path).read_text())


def slug(text):
    """Returns the anchor that GitHub makes for a heading."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(path):
    """Returns the page's anchors: those of headings, with numbers if they repeat, and those written as HTML."""
    found, seen = set(), {}
    parsed = tokens(path)
    for token, inline in zip(parsed, parsed[1:]):
        if token.type == "heading_open":
            name = slug("".join(child.content for child in inline.children if child.type in ("text", "code_inline")))
            found.add(name if name not in seen else f"{name}-{seen[name]}")
            seen[name] = seen.get(name, 0) + 1
        found |= set(re.findall(r"\b(?:id|name)=\"([^\"]+)\"", token.content if token.type == "html_block" else ""))
    return found


def links(path):
    for token in tokens(path):
        for child in token.children or []:
            target = child.attrGet("href") if child.type == "link_open" else child.attrGet("src") if child.type == "image" else None
            if target:
                yield str(target)
        for html in [token] * (token.type == "html_block") + [c for c in token.children or [] if c.type == "html_inline"]:
            yield from re.findall(r"\b(?:src|srcset|href)=\"([^\"\s]+)", html.content)


def fault(path, link):
    """Returns what is wrong with a link, or None. Links to other sites are not checked."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    if parts.path.startswith("/"):
        return "an absolute path"
    target = os.path.normpath(os.path.join(os.path.dirname(path), urllib.parse.unquote(parts.path))) if parts.path else path
    if target not in FILES and target not in DIRECTORIES:
        return "no such file in the repository"
    if parts.fragment and (not target.endswith(".md") or urllib.parse.unquote(parts.fragment) not in anchors(target)):
        return "no such anchor"
    return None


@pytest.mark.parametrize("path", PAGES)
def test_links_of_a_page_lead_somewhere(path):
    faults = [f"{link}: {why}" for link in links(path) if (why := fault(path, link))]
    assert not faults, "\n".join(faults)


def test_every_page_of_the_documentation_is_in_its_index():
    listed = {os.path.normpath(f"docs/{link}") for link in links("docs/README.md")}
    missing = {path for path in PAGES if path.startswith("docs/") and path != "docs/README.md"} - listed
    assert not missing


def promises(text):
    """Returns the file and the test of each test in the tables with the heading "What is tested"."""
    found, file = [], None
    for line in text.partition("## What is tested\n")[2].partition("\n## ")[0].splitlines():
        for word in re.findall(r"`([^`]+)`", line.rpartition(" | ")[2]):
            if "/" in word:
                # A line that names no file of tests has that of the line before.
                file = word if word.startswith("tests/") else file
                found.append((word, None))
            elif word.startswith("test_"):
                found.append((file, word))
    return found


TESTED = {path: named for path in PAGES if (named := promises((ROOT / path).read_text()))}


@pytest.mark.parametrize("path", TESTED)
def test_tests_that_a_page_names_are_in_their_files(path):
    missing = [
        f"{file}: {test}" for file, test in TESTED[path]
        if file not in FILES or (test and f"def {test}(" not in (ROOT / file).read_text())
    ]
    assert not missing
    assert len(TESTED[path]) > 5


@pytest.mark.parametrize("heading, anchor", [
    ("Before you switch", "before-you-switch"),
    ("`maypole.Server`, and its life", "maypoleserver-and-its-life"),
    ("A 512 MB container?", "a-512-mb-container"),
    ("Threads & the GIL", "threads--the-gil"),
])  # fmt: skip
def test_anchor_is_as_github_makes_it(heading, anchor):
    assert slug(heading.replace("`", "")) == anchor


@pytest.mark.parametrize("link, why", [
    ("nothing.md", "no such file"), ("#nothing", "no such anchor"), ("../README.md#nothing", "no such anchor"),
    ("/docs/README.md", "an absolute path"), ("../target", "no such file"),
    ("../README.md", None), ("https://example.com/nothing", None), ("../examples", None),
])  # fmt: skip
def test_broken_link_is_found(link, why):
    found = fault("docs/README.md", link)
    assert (why is None and found is None) or (why and why in found)
