"""Checks a release as far as seconds allow, without building a wheel: `make test-release`."""

import pathlib
import re
import subprocess
import sys
import tarfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import checks
import tree

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    maturin = pathlib.Path(sys.executable).parent / "maturin"
    return tree.build_sdist(maturin, tmp_path_factory.mktemp("sdist"))


def test_sdist_has_what_a_build_needs_and_no_more(sdist):
    assert list(tree.sdist_problems(sdist)) == []


def test_sdist_that_lacks_a_file_or_has_a_picture_is_refused(sdist, tmp_path):
    source = tree.extract(sdist, tmp_path / "source")
    (source / "Cargo.lock").unlink()
    (source / "plots").mkdir()
    (source / "plots/wait.png").write_bytes(b"")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    problems = " ".join(tree.sdist_problems(tmp_path / "other.tar.gz"))
    assert "lacks Cargo.lock" in problems and "no build needs: plots" in problems


def test_metadata_passes_twine_and_has_no_relative_link(sdist):
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(sdist)], check=True, timeout=60)
    with tarfile.open(sdist) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("/PKG-INFO")]
        text = archive.extractfile(name).read().decode()
    assert tree.relative_links(text) == []
    assert "Author: The Maypole developers" in text


def test_sdist_has_manifests_that_cargo_accepts(sdist, tmp_path):
    source = tree.extract(sdist, tmp_path)
    command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize(("markdown", "with_address", "without"), [
    ("see [logs](docs/logs.md#json).", "see [logs](https://x.test/r/blob/v1/docs/logs.md#json).", "see logs."),
    ("![plot](benches/wait.png)", "![plot](https://x.test/r/raw/v1/benches/wait.png)", ""),
    ("[![plot](a.png)](b.md)", "[![plot](https://x.test/r/raw/v1/a.png)](https://x.test/r/blob/v1/b.md)", ""),
    ('<img alt="a" src="a.png">', '<img alt="a" src="https://x.test/r/raw/v1/a.png">', ""),
    ('<a href="b.md">more</a>', '<a href="https://x.test/r/blob/v1/b.md">more</a>', "more"),
    ("[PEP](https://peps.python.org/) and [below](#limits)",) * 3,
    ("```python\nhandlers[name](argument)\n```",) * 3,
])
def test_description_has_absolute_links_or_none(markdown, with_address, without):
    assert tree.description(markdown, "https://x.test/r/", "v1") == with_address
    assert tree.description(markdown, None, "v1") == without
    assert tree.relative_links(with_address) == tree.relative_links(without) == []


def test_changelog_has_a_section_for_the_version():
    assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", tree.changelog_heading() or "no section")


def test_version_without_a_section_in_the_changelog_has_no_heading(tmp_path):
    (tmp_path / "Cargo.toml").write_text('[package]\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [0.1.0] - 2026-11-26\n")
    assert tree.changelog_heading(tmp_path) is None


def test_licences_name_every_crate_of_a_wheel():
    text = (tree.ROOT / "LICENSE-THIRD-PARTY.txt").read_text()
    assert list(checks.third_party_problems(text, checks.crates())) == []
    assert list(checks.third_party_problems(text, {("pyo3", "0.0.1")})) != []


def test_every_supported_python_is_declared_and_documented():
    project = tree.project()
    prefix = "Programming Language :: Python :: "
    declared = [line.removeprefix(prefix) for line in project["classifiers"] if re.fullmatch(prefix + r"3\.\d+", line)]
    assert declared == PYTHONS and project["requires-python"] == f">={PYTHONS[0]}"
    page = (tree.ROOT / "docs/reference/versions.md").read_text()
    assert re.findall(r"^\| (3\.\d+) \|", page, re.MULTILINE) == PYTHONS
    assert f"Rust {rust_version()} or newer" in (tree.ROOT / "docs/howto/install.md").read_text()


def rust_version():
    return re.search(r'^rust-version = "(.+)"', (tree.ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]


def test_crate_packages_without_a_warning():
    command = ["cargo", "package", "--no-verify", "--allow-dirty", "--locked", "--offline"]
    done = subprocess.run(command, cwd=tree.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr


@pytest.mark.parametrize(("found", "promised", "kept"), [
    ("manylinux_2_17_x86_64", "manylinux_2_17_x86_64", True),
    ("manylinux_2_5_x86_64", "manylinux_2_17_x86_64", True),
    ("manylinux_2_34_x86_64", "manylinux_2_17_x86_64", False),
    ("linux_x86_64", "manylinux_2_17_x86_64", False),
    ("musllinux_1_1_aarch64", "musllinux_1_2_aarch64", True),
    ("manylinux_2_17_aarch64", "musllinux_1_2_aarch64", False),
])
def test_platform_tag_for_older_systems_keeps_the_promise(found, promised, kept):
    assert checks.is_promised(found, promised) is kept
