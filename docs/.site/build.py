#!/usr/bin/env python3
"""Makes the site out of the Markdown that GitHub shows: build.py OUTPUT [BUILDER]

The pages below docs/ are the site, and docs/README.md is its index, whose headings and lists are also the navigation. Files
elsewhere in the repository that a page links to, such as README.md, a plot or an example, become pages or pictures of
the site too. Nothing in the Markdown is only for the site.

After Sphinx has run, with warnings as errors, every internal link and anchor of the HTML is looked up.
"""

import html.parser
import os
import posixpath
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

from pygments.lexers import find_lexer_class_by_name
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parents[2]
# Where files outside docs/ go.
PLACES = {"docs/README.md": "index.md", "README.md": "readme.md", "CHANGELOG.md": "changelog.md",
          "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md",
          "benches/load/README.md": "load-tests.md"}  # fmt: skip
PROJECT = ["README.md", "CHANGELOG.md", "benches/load/README.md"]
FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})(.*)$")
LINK = re.compile(r"""(\]\(|^\[[^\]]+\]:\s+|\b(?:src|srcset|href)=")([^)\s">]+)""")
COMMENT = re.compile(r"^\s*<!--.*?-->\s*$")
PICTURES = (".png", ".svg", ".jpg", ".gif")


class Stage:
    """Sphinx's source directory."""

    def __init__(self, directory):
        self.directory = directory
        self.done = set()

    def place(self, path):
        """Where a file of the repository is on the site."""
        if path in PLACES:
            return PLACES[path]
        if path.startswith("docs/"):
            return path.removeprefix("docs/")
        if path.startswith("benches/load/") and path.endswith((".md", *PICTURES)):
            return path.removeprefix("benches/load/")
        if path.endswith(PICTURES):
            return f"pictures/{path}"
        return f"files/{path}.md"

    def add(self, path):
        """Puts a file there, once, and every file that it links to."""
        if path in self.done:
            return
        self.done.add(path)
        source, target = ROOT / path, self.directory / self.place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(PICTURES):
            shutil.copyfile(source, target)
        elif source.is_dir():
            target.write_text(self.listing(path))
        elif path.endswith(".md"):
            text = self.page(path, source.read_text())
            # Runs of the load tests are reached from the pages that quote them.
            in_navigation = path.startswith("docs/") or path in PROJECT
            target.write_text(text if in_navigation else f"---\norphan: true\n---\n\n{text}")
        else:
            fence = "`" * 4
            language = lexer_of(source.suffix.lstrip("."))
            target.write_text(f"---\norphan: true\n---\n\n# {path}\n\n{fence}{language}\n{source.read_text()}\n{fence}\n")

    def listing(self, path):
        names = [name for name in tracked() if name.startswith(f"{path}/")]
        for name in names:
            self.add(name)
        lines = "".join(f"* [{name}]({self.between(path, name)})\n" for name in names)
        return f"---\norphan: true\n---\n\n# {path}\n\n{lines}"

    def between(self, source, target):
        return posixpath.relpath(self.place(target), posixpath.dirname(self.place(source)) or ".")

    def page(self, path, text):
        """The text with its links as they are on the site, without comments, and with languages that have a lexer."""
        lines, fence = [], None
        for line in text.splitlines():
            mark = FENCE.match(line)
            if fence:
                if mark and mark[2].startswith(fence) and not mark[3].strip():
                    fence = None
            elif mark:
                fence = mark[2]
                line = f"{mark[1]}{mark[2]}{lexer_of(mark[3].strip())}"
            elif COMMENT.match(line):
                continue
            else:
                line = LINK.sub(lambda link: link[1] + self.link(path, link[2]), line)
            lines.append(line)
        return "\n".join(lines) + "\n"

    def link(self, path, link):
        if re.match(r"[a-z][a-z0-9+.-]*:|#|/", link):
            return link
        name, hash_mark, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), urllib.parse.unquote(name)))
        if not (ROOT / target).exists():
            return link  # Sphinx will say so.
        if target == "docs":
            target = "docs/README.md"
        self.add(target)
        return self.between(path, target) + hash_mark + anchor


def tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def lexer_of(name):
    try:
        find_lexer_class_by_name(name)
    except ClassNotFound:
        return "text"
    return name


def navigation(text):
    """The index's links by its headings, as lists of pages for the sidebar, which stand at its end."""
    entries = {}
    heading = None
    for line in text.splitlines():
        if match := re.match(r"#{2,3} (.+)", line):
            heading = match[1]
        elif heading and (match := re.match(r"\* \[[^\]]+\]\(([^)]+)\.md\)", line)):
            entries.setdefault(heading, []).append(match[1])
    entries["The project"] = ["README <readme>", *(PLACES[path].removesuffix(".md") for path in PROJECT[1:])]
    trees = "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n" for caption, pages in entries.items()
    )
    return f"{text}\n{trees}"


class Anchors(html.parser.HTMLParser):
    """The links and the anchors of one HTML page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("id", "name"):
                self.ids.add(value)
            elif name in ("href", "src") and tag in ("a", "img", "link", "script") and value:
                self.links.append(value)


def broken_links(output):
    pages = {path: Anchors(path) for path in output.rglob("*.html")}
    for path, page in pages.items():
        if path.name in ("search.html", "genindex.html"):
            continue
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = Path(os.path.normpath(path.parent / urllib.parse.unquote(parts.path))) if parts.path else path
            if not target.exists():
                yield f"{path.relative_to(output)}: {link}: there is no such file"
            elif parts.fragment and target in pages and urllib.parse.unquote(parts.fragment) not in pages[target].ids:
                yield f"{path.relative_to(output)}: {link}: there is no such anchor"


def main():
    output, builder = Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "html"
    source = output.with_name(f"{output.name}-source")
    shutil.rmtree(source, ignore_errors=True)
    stage = Stage(source)
    for path in sorted((ROOT / "docs").rglob("*.md")):
        stage.add(str(path.relative_to(ROOT)))
    for path in PROJECT:
        stage.add(path)
    index = source / "index.md"
    index.write_text(navigation(index.read_text()))
    shutil.rmtree(output, ignore_errors=True)
    sphinx = [sys.executable, "-m", "sphinx", "-b", builder, "-W", "--keep-going", "-n", "-q", "-j", "auto", "-c",
              Path(__file__).parent, "-d", output.with_name(f"{output.name}-cache"), source, output]  # fmt: skip
    done = subprocess.run(list(map(str, sphinx)), env={**os.environ, "MAYPOLE_ROOT": str(ROOT)})
    if done.returncode:
        sys.exit(done.returncode)
    if builder == "html":
        broken = sorted(set(broken_links(output)))
        if broken:
            sys.exit("\n".join(broken))
        print(f"{output / 'index.html'}: {len(list(output.rglob('*.html')))} pages")


if __name__ == "__main__":
    main()
