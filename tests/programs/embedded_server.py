"""Serves an application from inside a program: `embedded_server.py ADDRESS MODULE:NAME`, until SIGTERM."""

import importlib
import logging
import os
import signal
import sys

import maypole

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.path.insert(0, os.getcwd())
    module, _, name = sys.argv[2].partition(":")
    server = maypole.Server(getattr(importlib.import_module(module), name), sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.start()
    server.wait()
