"""Long polling: all open pages show the same counter (pip install maypole).

    maypole --chdir examples longpoll

A page asks for the counter and names the number that it shows. The response waits until there is another one, at most
25 s. Then the page asks again.
"""

import json
import threading

import maypole

PAGE = b"""<!doctype html>
<meta charset="utf-8"><title>Counter</title>
<button id="up">0</button>
<script>
const button = document.getElementById("up");
button.onclick = () => fetch("up", {method: "POST"});
async function follow(shown) {
  for (;;) {
    try {
      const response = await fetch("count?" + shown);
      shown = button.textContent = await response.json();
    } catch {
      // The server starts again, say.
      await new Promise(resolve => setTimeout(resolve, 1000));
    }
  }
}
follow(-1);
</script>
"""

count = 0
counting = threading.Lock()
changed = maypole.Event()


def wait_for_count(environ):
    """Yields the counter when it is another one than the page shows, or when the time is over."""
    # Within `with`, a change between the comparison and the wait is not missed.
    with maypole.wait(environ, changed, timeout="25s") as waiter:
        if environ["QUERY_STRING"] == str(count):
            yield from waiter
    yield json.dumps(count).encode()


def application(environ, start_response):
    global count
    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case "GET", "/":
            start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(PAGE)))])
            return [PAGE]
        case "GET", "/count":
            start_response("200 OK", [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
            return wait_for_count(environ)
        case "POST", "/up":
            with counting:
                count += 1
            # Those that wait now go on, and the next ones wait again.
            changed.set()
            changed.clear()
            start_response("204 No Content", [])
            return []
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"There is /.\n"]
