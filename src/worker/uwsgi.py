"""The module `uwsgi` of `--uwsgi-module`, for services that ask uWSGI for their place.

*Owns*: the names that Maypole can answer. *Runs on*: any thread of the application. *Source*: uWSGI's "The uwsgi Python
module".
"""

import sys
import types

#: What Maypole has instead of a name that it does not give, by the beginning of the name.
INSTEAD = {
    "add_cron": "use cron or a timer of systemd",
    "add_timer": "use cron or a timer of systemd",
    "async_": "Maypole runs each request on a thread of its own, so nothing needs to wait asynchronously",
    "cache_": "use a library for caches, such as cachetools, or a server such as Redis",
    "chunked_read": "read environ['wsgi.input'], which takes chunked bodies as well",
    "connection_fd": "call environ['maypole.socket']() to take the connection over",
    "disconnect": "return from the application: Maypole sends the rest of the response by itself",
    "farm_": "use a task queue, such as Celery",
    "in_farm": "use a task queue, such as Celery",
    "is_connected": "call environ['maypole.client_disconnected']()",
    "lock": "use multiprocessing.Lock, or fcntl.flock on a file",
    "log": "use the module logging, or environ['wsgi.errors']",
    "mule_": "use a task queue, such as Celery",
    "register_signal": "use cron, a timer of systemd or a task queue",
    "reload": "run `maypole reload`, or send SIGHUP to the process os.getppid()",
    "rpc": "use a library for remote calls",
    "send_to_spooler": "use a task queue, such as Celery",
    "sendfile": "return environ['wsgi.file_wrapper'](file)",
    "set_logvar": "name environ entries in --access-logformat: %({name}e)s",
    "set_spooler_": "use a task queue, such as Celery",
    "sharedarea_": "use multiprocessing.shared_memory",
    "signal": "use cron, a timer of systemd or a task queue",
    "spool": "use a task queue, such as Celery",
    "stop": "send SIGTERM to the process os.getppid()",
    "total_requests": "read the access log",
    "unlock": "use multiprocessing.Lock, or fcntl.flock on a file",
    "websocket_": "call environ['maypole.socket']() and use a library for WebSockets",
    "worker_": "call maypole.worker()",
    "workers": "call maypole.worker()",
}


class Module(types.ModuleType):
    @property
    def numproc(self):
        return self.__workers__()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(f"module 'uwsgi' has no attribute '{name}'")
        known = [start for start in INSTEAD if name.startswith(start)]
        names = "numproc, opt, started_on, version, masterpid() and worker_id()"
        instead = INSTEAD[max(known, key=len)] if known else f"its names are {names}"
        raise AttributeError(f"Maypole's module uwsgi has no '{name}': {instead}")


def install(number, workers, supervisor, started, options):
    """Puts the module into `sys.modules`, or updates it. `number` is 0 before the worker exists (`--preload`)."""
    module = sys.modules.get("uwsgi")
    # A worker of `--preload` runs this file again, and finds the module that the application has imported.
    if not hasattr(module, "__maypole__"):
        module = Module("uwsgi", "Maypole's answers for applications that ask uWSGI for their place.")
        module.__maypole__ = True
        module.opt = {}
        sys.modules["uwsgi"] = module
    # Values are bytes, and the version too, as in uWSGI.
    module.opt.update((name, value.encode("utf-8", "surrogateescape")) for name, value in options)
    module.version = b"2.0.0-maypole"
    module.__workers__ = workers
    module.started_on = started
    module.masterpid = lambda: supervisor
    module.worker_id = lambda: number
