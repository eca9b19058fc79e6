"""Evaluates a configuration file in Python, and writes its names and values as JSON.

Runs on: the main thread of a process that does nothing else. The variable `_MAYPOLE_EVALUATE` names the file, or is
`python:MODULE`. The JSON goes to the standard output of the process; what the file prints goes to standard error. It is
`{"file": …, "names": […], "environment": […]}`, or `{"error": …}` after a traceback on standard error. Both the program
and the package run this text, so it imports nothing of the package.
"""

import ast
import importlib
import json
import os
import signal
import sys
import traceback
import types
from collections.abc import Iterable, Iterator
from typing import Any

VARIABLE = "_MAYPOLE_EVALUATE"
MODULE = "python:"

# The number of an operation of prctl(2).
PR_SET_PDEATHSIG = 1

# gunicorn's name of the module that such a file is.
NAME = "__config__"


def module_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields the statements that run when the module runs: those in `if`, `try` and loops, not those in functions."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from module_statements(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from module_statements(handler.body)


def is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def assigned(tree: ast.Module, source: str) -> dict[str, tuple[int, str | None]]:
    """Returns the last line that gives each name its value, and the expression if the file computes the value."""
    found: dict[str, tuple[int, str | None]] = {}
    for statement in module_statements(tree.body):
        line = statement.lineno
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[statement.name] = line, None
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and statement.value is not None:
            targets: list[ast.expr] = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            computed = isinstance(statement, ast.AugAssign) or not is_literal(statement.value)
            expression = ast.get_source_segment(source, statement.value) if computed else None
            for target in targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        found[node.id] = line, expression
    return found


def described(value: Any) -> tuple[str, Any]:
    """Returns the kind of a value, and the value as JSON can hold it."""
    if value is None:
        return "none", None
    if isinstance(value, bool):
        return "flag", value
    if isinstance(value, (int, float)):
        return "number", value
    if isinstance(value, (str, os.PathLike)):
        return "text", os.fspath(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [described(item) for item in value]
        if all(kind in ("number", "text") for kind, _ in items):
            return "list", [str(item) for _, item in items]
    if isinstance(value, dict):
        return ("mapping", None) if value else ("none", None)
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        return "function", None
    return "other", type(value).__name__


def run(location: str) -> tuple[str, bytes, dict[str, Any]]:
    """Runs the file. Returns its path, its source and its global names."""
    if location.startswith(MODULE):
        module = importlib.import_module(location[len(MODULE) :])
        path = module.__file__ or ""
        with open(path, "rb") as file:
            return path, file.read(), vars(module)
    path = os.path.abspath(location)
    with open(path, "rb") as file:
        source = file.read()
    code = compile(source, path, "exec")
    module = types.ModuleType(NAME)
    module.__file__ = path
    sys.modules[NAME] = module
    exec(code, vars(module))
    return path, source, vars(module)


def evaluate(location: str) -> dict[str, Any]:
    before = dict(os.environ)
    path, source, names = run(location)
    tree = ast.parse(source)
    lines = assigned(tree, source.decode("utf-8", "replace"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    found = []
    for name, value in list(names.items()):
        if name.startswith("_") or isinstance(value, (types.ModuleType, type)) and name not in lines:
            continue
        kind, plain = described(value)
        line, expression = lines.get(name, (0, None))
        row = {"name": name, "kind": kind, "value": plain, "line": line, "used": name in used}
        found.append({**row, "expression": expression})
    environment = [pair for pair in os.environ.items() if before.get(pair[0]) != pair[1]]
    return {"file": path, "names": found, "environment": environment}


def of_the_file(error: BaseException) -> types.TracebackType | None:
    """Returns the traceback from the first frame that is not of this file on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == evaluate.__code__.co_filename:
        frames = frames.tb_next
    return frames


def end_with_parent() -> None:
    """Makes the kernel end this process when the thread that has started it ends: a file may run without an end."""
    try:
        import ctypes
    except ImportError:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    end_with_parent()
    location = os.environ.pop(VARIABLE)
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # As when the application is imported, its directory is searched first.
    if __name__ == "__main__" and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    sys.path.insert(0, os.getcwd())
    try:
        found = evaluate(location)
    except BaseException as error:
        # A file that calls `sys.exit` has no settings either.
        traceback.print_exception(type(error), error, of_the_file(error))
        found = {"error": "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()[-1]}
    json.dump(found, result)
    result.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the file has started do not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
