"""The file of `--hooks`, and the objects that its functions get.

Owns: the namespace of the file, in which each module-level name of the file is a variable. Runs on: the main thread of
a worker, a template or the process of the hooks.
"""

import os
import sys
import types

# The name under which gunicorn runs its configuration file.
NAME = "__config__"


class Log:
    """Writes lines to the error log, with the methods of a logger."""

    def __init__(self, write):
        self._write = write

    def debug(self, message, *arguments, **options):
        self._line("debug", message, arguments, options)

    def info(self, message, *arguments, **options):
        self._line("info", message, arguments, options)

    def warning(self, message, *arguments, **options):
        self._line("warning", message, arguments, options)

    warn = warning

    def error(self, message, *arguments, **options):
        self._line("error", message, arguments, options)

    critical = error

    def exception(self, message, *arguments, **options):
        self._line("error", message, arguments, {"exc_info": True, **options})

    def log(self, level, message, *arguments, **options):
        """Writes a line with a level of the module `logging`."""
        names = [name for least, name in [(40, "error"), (30, "warning"), (20, "info")] if level >= least]
        self._line((names or ["debug"])[0], message, arguments, options)

    def _line(self, level, message, arguments, options):
        text = str(message)
        if arguments:
            # A mapping as the only argument fills names, as in the module `logging`.
            is_mapping = len(arguments) == 1 and isinstance(arguments[0], dict) and arguments[0]
            text %= arguments[0] if is_mapping else arguments
        error = options.get("exc_info")
        if error:
            error = error if isinstance(error, BaseException) else sys.exc_info()[1]
        self._write(level, text, error or None)


class Settings:
    """The settings of the server, as attributes."""

    def __init__(self, settings):
        self.settings = {name: _value(text) for name, text in settings}

    def __getattr__(self, name):
        try:
            return self.settings[name]
        except KeyError:
            raise AttributeError(f"Maypole has no setting '{name}'; `maypole --help` lists its settings") from None


def _value(text):
    constants = {"true": True, "false": False, "none": None}
    if text in constants:
        return constants[text]
    return int(text) if text.isascii() and text.isdigit() else text


class _Place:
    """An object whose attributes are the fields that it was made with."""

    def __init__(self, **fields):
        self.__dict__.update(fields)

    def __getattr__(self, name):
        kind = type(self).__name__.lower()
        has = ", ".join(sorted(self.__dict__))
        raise AttributeError(f"the {kind} of a hook has no attribute '{name}'; it has: {has}")

    def __repr__(self):
        return f"<Maypole {type(self).__name__.lower()} {self.pid}>"


class Server(_Place):
    """The service as a hook sees it: the supervisor, its workers and its settings."""


class Worker(_Place):
    """A worker as a hook sees it."""


def run(path):
    """Runs the file as a module of its own, and returns its names."""
    module = types.ModuleType(NAME)
    module.__file__ = os.path.abspath(path)
    # Code of the file may look its own module up, as `dataclasses` does.
    sys.modules[NAME] = module
    with open(path, "rb") as file:
        code = compile(file.read(), module.__file__, "exec")
    exec(code, module.__dict__)
    return module.__dict__


def does_nothing(function):
    """Returns whether a function has no statement besides `pass` and its doc."""
    return function.__code__.co_code in [empty.__code__.co_code for empty in (_with_doc, _without_doc)]


def _with_doc():
    """Does nothing."""


def _without_doc():
    pass


def parameters(function):
    """Returns the first parameter's name, how many arguments a call needs and how many it may have, and whether a call
    only makes a coroutine. None for a callable that is no function."""
    if not isinstance(function, types.FunctionType):
        return None
    code = function.__code__
    takes_any, is_coroutine = bool(code.co_flags & 0x04), bool(code.co_flags & 0x80)
    first = code.co_varnames[0] if code.co_argcount else ""
    needs = code.co_argcount - len(function.__defaults__ or ())
    return first, needs, 255 if takes_any else code.co_argcount, is_coroutine
