"""docs/reference/sse.md has each parameter and each member of `maypole.sse`, with their defaults."""

import inspect
import re

import pytest

from process import ROOT

sse = pytest.importorskip("maypole.sse")
PAGE = (ROOT / "docs" / "reference" / "sse.md").read_text()


def table(mark):
    """Returns the rows of the table after a mark: the names in the first cell, and the second cell."""
    rows = PAGE.partition(f"<!-- {mark} -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert rows, mark
    cells = [row.strip("| ").split(" | ") for row in rows]
    return [(re.findall(r"`([^`]+)`", first), second) for first, second, *_ in cells]


@pytest.mark.parametrize("name", ["EventStream", "Broadcast"])
def test_page_has_each_parameter_with_its_default(name):
    parameters = dict(inspect.signature(getattr(sse, name)).parameters)
    parameters.pop("request", None)
    rows = table(f"parameters: {name}")
    assert [one for names, _ in rows for one in names] == list(parameters)
    for (one, *more), default in rows:
        if not more:
            assert default.strip("`") == repr(parameters[one].default).replace("'", '"'), one


@pytest.mark.parametrize("name", ["EventStream", "Broadcast"])
def test_page_has_each_member(name):
    kind = getattr(sse, name)
    instance = kind({}) if name == "EventStream" else kind()
    found = {one for one in dir(instance) if not one.startswith("_")}
    named = {text for names, _ in table(f"members: {name}") for text in names} - {"stream(environ, start_response)"}
    assert {text.partition("(")[0] for text in named} == found
    for text in named:
        if "(" in text:
            signature = inspect.signature(getattr(instance, text.partition("(")[0]))
            bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
            assert text[text.index("("):] == str(inspect.Signature(bare)), text


def test_page_names_everything_public():
    assert [name for name in sse.__all__ if f"{name}" not in PAGE] == []
