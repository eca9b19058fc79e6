"""An application that yields only empty blocks until it is closed."""

import time


class Beats:
    def __init__(self, path, log):
        self.path, self.log = path, log

    def __iter__(self):
        if self.path == "/heart-sent":
            yield b"first"
        print(f"began {self.path}", file=self.log, flush=True)
        while True:
            yield b""
            time.sleep(0.001)

    def close(self):
        print(f"closed {self.path}", file=self.log, flush=True)


def application(environ, start_response):
    path, log = environ["PATH_INFO"], environ["wsgi.errors"]
    if path == "/quick":
        start_response("200 OK", [("Content-Length", "5")])
        return [b"quick"]
    write = start_response("204 No Content" if "204" in path else "200 OK", [])
    if path == "/pause":
        return (b"" if beat < 200 else b"done" for beat in range(201) if not time.sleep(0.001))
    if path == "/heart-write":
        print(f"began {path}", file=log, flush=True)
        try:
            while True:
                write(b"")
                time.sleep(0.001)
        except OSError:
            print(f"closed {path}", file=log, flush=True)
            return []
    return Beats(path, log)
