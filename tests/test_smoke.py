"""The files of smoke tests import only what every environment has: tools/smoke installs nothing but pytest."""

import ast
import pathlib
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
SMOKE = sorted(path.name for path in TESTS.glob("test_*.py") if "mark.smoke" in path.read_text())
# `maypole` itself is installed there.
INSTALLED = sys.stdlib_module_names | {"maypole", "pytest"}


def imported(path):
    """Yields the modules that a file imports when it is loaded."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def missing(path, seen):
    """Yields the modules that are not installed, each after the file that imports it."""
    for name in imported(path):
        own = [directory / f"{name}.py" for directory in (TESTS, TESTS.parent / "tools")]
        found = next((file for file in own if file.exists()), None)
        if found is None and name not in INSTALLED:
            yield f"{path.name} imports {name}"
        elif found is not None and found not in seen:
            seen.add(found)
            yield from missing(found, seen)


@pytest.mark.parametrize("name", SMOKE)
def test_file_of_smoke_tests_needs_no_other_package(name):
    assert not list(missing(TESTS / name, set()))


def test_package_that_another_file_imports_is_found():
    assert "snippets.py imports markdown_it" in list(missing(TESTS / "test_howto.py", set()))
