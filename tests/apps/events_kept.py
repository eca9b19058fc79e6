"""The application `events` behind a middleware that keeps empty blocks."""

import events


def application(environ, start_response):
    blocks = events.application(environ, start_response)
    try:
        yield from (block for block in blocks if block)
    finally:
        blocks.close()
