"""A regular expression that takes years for some inputs. No other thread runs meanwhile."""

import re

NAME = re.compile(r"(\w+\s?)*$")


def is_name(text):
    return NAME.match(text) is not None


def app(environ, start_response):
    if environ["PATH_INFO"] == "/register":
        is_name("a" * 60 + "!")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done\n"]
