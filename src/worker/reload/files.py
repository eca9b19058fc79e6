"""Finds the files of an application for `--reload`, and compiles changed ones.

Runs on: the thread `maypole-modules`, and once on the main thread after the import. The server executes this file once
per process. Its name in tracebacks is not a path, so that coverage tools ignore it.

An item is a pair: "file", "tree" or "sources", and a path. Nothing here imports a framework or touches an attribute of
an object of the application, except where its class is known: some objects in `sys.modules` import more as soon as they
are touched.
"""

import gc
import os
import re
import sys
import traceback

#: The directories of the standard library. Its files do not change.
LIBRARY = {os.path.dirname(os.path.abspath(os.__file__))}
#: Directories of installed packages below it. Their modules are watched, and the directories beside them are not.
INSTALLED = ("site-packages", "dist-packages")

#: Classes whose objects know directories of templates: the module, the class, and the attribute.
LOADERS = [("jinja2.loaders", "FileSystemLoader", "searchpath"), ("mako.lookup", "TemplateLookup", "directories")]

#: The modules that were looked at: the name, and the identity of the object.
seen = {}
#: Whether modules were loaded after the last search for directories of templates.
unsearched = False


def scan(loaders):
    """Returns the items of the modules that were loaded since the last call. With `loaders`, those of templates, too,
    if a module was loaded since the last search for them: it looks at every object.
    """
    global unsearched
    new = {name: module for name, module in list(sys.modules.items()) if seen.get(name) != id(module)}
    unsearched = unsearched or bool(new)
    seen.update((name, id(module)) for name, module in new.items())
    items = set()
    for module in new.values():
        file, path = place(module)
        if file and not of_library(file):
            items.add(("file", file))
            beside = os.path.join(os.path.dirname(file), "templates")
            if not is_installed(file) and os.path.isdir(beside):
                items.add(("tree", beside))
        elif path and not file:
            # A package without `__init__.py`: its directory decides what it contains.
            items.update(("sources", part) for part in path if not of_library(part) and not is_installed(part))
    if loaders and unsearched:
        unsearched = False
        items.update(("tree", part) for part in templates() if not of_library(part) and not is_installed(part))
    return sorted(items)


def place(module):
    """Returns the file of a module, or None, and the directories of a package."""
    try:
        names = object.__getattribute__(module, "__dict__")
        file, path = names.get("__file__"), names.get("__path__")
        path = [os.path.abspath(part) for part in path] if path is not None else []
        # A module that was made from a text has no file, and a name that says so.
        is_file = isinstance(file, str) and not file.startswith("<")
        return (os.path.abspath(file) if is_file else None), path
    except Exception:
        return None, []


def of_library(path):
    return not is_installed(path) and any((path + os.sep).startswith(library + os.sep) for library in LIBRARY)


def is_installed(path):
    return any(part in INSTALLED for part in path.split(os.sep))


def templates():
    """Returns the directories of templates that the loaded frameworks know."""
    found = set()
    classes = [(known(module, name), attribute) for module, name, attribute in LOADERS]
    classes = [(cls, attribute) for cls, attribute in classes if cls is not None]
    flask = tuple(cls for name in ("Flask", "Blueprint") if (cls := known("flask", name)) is not None)
    if classes or flask:
        for thing in gc.get_objects():
            # `isinstance` would ask a proxy for the class of the object behind it.
            for cls, attribute in classes:
                if issubclass(type(thing), cls):
                    found.update(map(os.fspath, getattr(thing, attribute, ())))
            if flask and issubclass(type(thing), flask) and thing.template_folder:
                found.add(os.path.join(thing.root_path, thing.template_folder))
    settings = known("django.conf", "settings")
    if settings is not None and settings.configured:
        for engine in settings.TEMPLATES:
            found.update(map(os.fspath, engine.get("DIRS", ())))
    return {os.path.abspath(path) for path in found}


def known(module, name):
    """Returns a name of a loaded module, or None."""
    return getattr(sys.modules.get(module), name, None)


def around(text):
    """Returns the items that can mend a failed import, whose traceback is `text`."""
    files = [os.path.abspath(file) for file in re.findall(r'^ *File "([^"<]+)", line', text, re.M)]
    items = {("file", file) for file in files if not of_library(file)}
    directories = {os.path.dirname(file) for file in files}
    for module in list(sys.modules.values()):
        file, path = place(module)
        directories.update(path or ([os.path.dirname(file)] if file else []))
    # A missing module may appear in any directory of the path: the developer installs it.
    missing = re.findall(r"[Nn]o module (?:named )?'([\w.]+)'", text)
    for entry in map(os.path.abspath, sys.path):
        items.add(("sources", entry))
        for name in missing:
            inner = entry
            for part in name.split("."):
                inner = os.path.join(inner, part)
                directories.add(inner)
    items.update(("sources", path) for path in directories if not is_installed(path))
    return sorted((kind, path) for kind, path in items if kind == "file" or (os.path.isdir(path) and not of_library(path)))


def check(paths):
    """Returns the error of the first Python file that cannot be compiled, as Python prints it. Otherwise None."""
    for path in paths:
        if not path.endswith(".py"):
            continue
        try:
            with open(path, "rb") as file:
                source = file.read()
        except OSError:
            continue
        try:
            compile(source, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            return "".join(traceback.format_exception_only(type(error), error)).rstrip("\n")
    return None
