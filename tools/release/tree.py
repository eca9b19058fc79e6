"""The source tree as a release sees it: version, changelog, description for PyPI, and the source distribution."""

import gzip
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile

try:
    import tomllib
except ModuleNotFoundError:  # CPython 3.10 lacks this module; maturin brings its predecessor.
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# The files for a build, and the licences. `src/` alone is most of it.
SDIST_BYTES_MAX = 1_200_000
SDIST_TOP = {
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "LICENSE-THIRD-PARTY.txt",
    "PKG-INFO",
    "README.md",
    "build.rs",
    "pyproject.toml",
    "python",
    "src",
}


def version(root=ROOT):
    """Returns the version, which stands only in Cargo.toml."""
    return tomllib.loads((root / "Cargo.toml").read_text())["package"]["version"]


def project(root=ROOT):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def cargo_home():
    return pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")


def repository(root=ROOT):
    return project(root).get("urls", {}).get("Repository")


def changelog_heading(root=ROOT):
    """Returns the date of the version in the changelog, or "unreleased". None if the version has no section."""
    heading = re.compile(rf"^## \[{re.escape(version(root))}\] - (\S+)$", re.MULTILINE)
    found = heading.search((root / "CHANGELOG.md").read_text())
    return found and found[1]


def pages_before_the_first_release(root=ROOT):
    """Returns the pages with a sentence that is wrong after a release."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [str(page.relative_to(root)) for page in pages if re.search(r"not\s+on\s+PyPI\s+yet", page.read_text())]


RELATIVE = r"(?!#|[a-z][a-z0-9+.-]*:)"
PICTURE = re.compile(rf"!\[([^\]]*)\]\({RELATIVE}([^)\s]+)\)")
LINK = re.compile(rf"(?<!!)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\({RELATIVE}([^)\s]+)\)")
HTML_PICTURE = re.compile(rf"""(<(?:img|source)\b[^>]*?\b(?:src|srcset)=")({RELATIVE}[^"\s]+)("[^>]*>)""")
HTML_LINK = re.compile(rf"""<a\b[^>]*?\bhref="({RELATIVE}[^"\s]+)"[^>]*>(.*?)</a>""", re.DOTALL)


def description(markdown, base, ref):
    """Returns the README for PyPI, where relative links and pictures lead to the tag in the repository.

    If the repository has no address, a link becomes its text, and a picture is removed.
    """
    parts = _parts(markdown)
    parts[::2] = [_without_relative_links(part, base and base.rstrip("/"), ref) for part in parts[::2]]
    return "".join(parts)


def relative_links(markdown):
    """Returns the links and pictures that `description` has to change."""
    patterns = (PICTURE, LINK, HTML_PICTURE, HTML_LINK)
    return [found for part in _parts(markdown)[::2] for pattern in patterns for found in pattern.findall(part)]


def _parts(markdown):
    """Returns text and fenced blocks in turn."""
    return re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)


def _without_relative_links(text, base, ref):
    if base is None:
        text = HTML_PICTURE.sub("", PICTURE.sub("", text))
        return HTML_LINK.sub(r"\2", LINK.sub(r"\1", text))
    text = PICTURE.sub(rf"![\1]({base}/raw/{ref}/\2)", text)
    text = HTML_PICTURE.sub(rf"\1{base}/raw/{ref}/\2\3", text)
    text = LINK.sub(rf"[\1]({base}/blob/{ref}/\2)", text)
    return HTML_LINK.sub(lambda link: link[0].replace(f'"{link[1]}"', f'"{base}/blob/{ref}/{link[1]}"'), text)


def build_sdist(maturin, directory):
    """Makes the source distribution of the tracked files, with the description for PyPI. Returns its path."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    with tempfile.TemporaryDirectory(prefix="maypole-sdist-") as stage:
        stage = pathlib.Path(stage)
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, stage / name)
        readme = stage / "README.md"
        readme.write_text(description(readme.read_text(), repository(), f"v{version()}"))
        environment = {name: value for name, value in os.environ.items() if name != "PYO3_PYTHON"}
        subprocess.run([maturin, "sdist", "--out", directory], cwd=stage, env=environment, check=True, timeout=120)
    (path,) = pathlib.Path(directory).glob("maypole-*.tar.gz")
    return path


def extract(sdist, directory):
    """Unpacks it and returns the directory of the tree. Cargo compares time stamps, so files get the present time."""
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (tree,) = pathlib.Path(directory).iterdir()
    for path in tree.rglob("*"):
        os.utime(path)
    return tree


def sdist_problems(sdist):
    """Yields a sentence for each fault of a source distribution."""
    size = sdist.stat().st_size
    if size > SDIST_BYTES_MAX:
        yield f"{sdist.name} has {size} bytes, which is more than {SDIST_BYTES_MAX}"
    with gzip.open(sdist) as unpacked, tarfile.open(fileobj=unpacked) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    tops = {name.split("/")[0] for name in names}
    if extra := tops - SDIST_TOP:
        yield f"{sdist.name} has what no build needs: {', '.join(sorted(extra))}"
    if missing := SDIST_TOP - tops:
        yield f"{sdist.name} lacks {', '.join(sorted(missing))}"
