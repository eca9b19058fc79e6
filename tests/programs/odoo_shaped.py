"""A program with the shape of Odoo's threaded server, on maypole.serving, for the tests.

*Owns*: the process, its signals and its re-execution. *Runs on*: the main thread, which sleeps; the server has a
separate daemon thread. Usage: odoo_shaped.py PORT. It prints a line for each event.
"""

import os
import signal
import socket
import sys
import threading
import time
import traceback

import maypole.serving

SD_LISTEN_FDS_START = 3
POLL = 0.05


def say(text):
    print(text, flush=True)


class Reloadable(maypole.serving.ThreadedWSGIServer):
    """Takes over the socket that the environment passes, as after a re-execution."""

    def server_bind(self):
        if os.environ.get("LISTEN_FDS") == "1" and os.environ.get("LISTEN_PID") == str(os.getpid()):
            self.reload_socket = True
            self.socket = socket.fromfd(SD_LISTEN_FDS_START, socket.AF_INET, socket.SOCK_STREAM)
            say(f"took the socket, generation {os.environ.get('GENERATION', '0')}")
        else:
            self.reload_socket = False
            super().server_bind()
            say(f"bound {self.server_name}:{self.server_port}")

    def server_activate(self):
        if not self.reload_socket:
            super().server_activate()

    def handle_error(self, request, client_address):
        say("never")


class Program:
    def __init__(self, port):
        self.port = port
        self.quit_signals = 0
        self.phoenix = False
        self.httpd = None

    def application(self, environ, start_response):
        me = threading.current_thread()
        me.name = f"odoo.service.http.request.{me.ident}"
        path = environ["PATH_INFO"]
        if path == "/slow":
            say("slow begins")
            time.sleep(float(environ["QUERY_STRING"]))
        text = "ok"
        if path == "/threads":
            text = "\n".join(sorted(f"{thread.name} {thread.daemon}" for thread in threading.enumerate()))
        if path == "/generation":
            text = f"{os.environ.get('GENERATION', '0')} {os.getpid()}"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text.encode()]

    def handle(self, number, frame):
        if number in (signal.SIGINT, signal.SIGTERM):
            self.quit_signals += 1
            if self.quit_signals > 1:
                sys.stderr.write("Forced shutdown.\n")
                os._exit(7)
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            self.phoenix = True
            self.quit_signals += 1
            raise KeyboardInterrupt

    def dump(self, number, frame):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, stack in sys._current_frames().items():
            say(f"# thread {names.get(ident, 'unknown')}: {''.join(traceback.format_stack(stack)[-1:]).split()}")
        say("# end of dump")

    def serve(self):
        self.httpd = Reloadable("127.0.0.1", self.port, self.application, handler=maypole.serving.WSGIRequestHandler)
        say(f"ready on {self.httpd.server_port}")
        self.httpd.serve_forever()

    def run(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.handle)
        signal.signal(signal.SIGQUIT, self.dump)
        try:
            # The line "ready" may be printed, and a signal may arrive, before this returns.
            threading.Thread(target=self.serve, name="odoo.service.httpd", daemon=True).start()
            # Odoo sleeps for longer. The kernel may deliver a signal to another thread, which does not wake this one.
            while self.quit_signals == 0:
                time.sleep(POLL)
        except KeyboardInterrupt:
            pass
        self.stop()
        if self.phoenix:
            self.execute_again()
        say("over")

    def stop(self):
        say("stopping")
        listener = os.dup(self.httpd.socket.fileno())
        self.httpd.shutdown()
        say("drained")
        if self.phoenix:
            os.dup2(listener, SD_LISTEN_FDS_START, inheritable=True)
        # Joins all threads that are not daemons, as Odoo does, in a loop that a second signal can interrupt.
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                say(f"joining {thread.name}")
                while thread.is_alive():
                    thread.join(POLL)

    def execute_again(self):
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.environ["GENERATION"] = str(int(os.environ.get("GENERATION", "0")) + 1)
        os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    Program(int(sys.argv[1])).run()
