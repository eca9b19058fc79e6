"""A Flask application (pip install flask).

    maypole --chdir examples flask_app:app

For development, with a reloader and a debugger (pip install maypole; in this directory):

    flask --app flask_app --debug maypole
"""

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/")
def index():
    return "Hello from Flask\n", {"Content-Type": "text/plain"}


@app.get("/user/<name>")
def user(name):
    return jsonify(name=name, agent=request.headers.get("User-Agent"))


@app.post("/form")
def form():
    return jsonify(request.form.to_dict(flat=False))


@app.post("/file")
def file():
    sent = request.files["file"]
    return jsonify(name=sent.filename, bytes=len(sent.read()))
