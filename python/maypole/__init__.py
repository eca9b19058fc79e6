"""Maypole: a WSGI server for very many clients, as a part of a Python program.

Owns: the public names. Importing it starts nothing, reads no command line and installs no signal handler.
"""

from ._native import AccessEntry, Pool, __version__
from ._server import Server, serve

__all__ = ["AccessEntry", "Pool", "Server", "__version__", "serve"]
