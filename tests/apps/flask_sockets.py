"""WebSockets that rest, in Flask."""

import flask

from maypole.contrib.flask_websocket import websocket

app = flask.Flask(__name__)
app.secret_key = "for the test"
ended = []


@app.teardown_appcontext
def teardown(_error):
    ended.append(flask.g.pop("word", None))


@app.get("/ended/<word>")
def has_ended(word):
    return str(ended.count(word))


@websocket(app, "/room/<name>")
def room(request, name):
    if name == "closed":
        flask.abort(403)
    if name == "error":
        request.accept()
        raise LookupError("after the accept")

    def on_message(ws, message):
        flask.g.word = message
        ws.send(f"{flask.current_app.name} {flask.request.path} {message}")

    request.accept(on_message).send(f"welcome to {name}")
