"""Responses that wait for an event and use what frameworks keep for one request: each part may run on another thread."""

import threading

import django.conf
import django.core.signals
import django.core.wsgi
import django.db
import django.http
import django.urls
import flask
import structlog
import werkzeug
from django.utils import timezone, translation
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from werkzeug.local import LocalStack
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from waiting import TEXT, blocks, root

#: What has happened at the ends of requests.
ENDS = []


def with_thread(tell):
    return lambda: f"{tell()}@{threading.current_thread().name}"


# --- Flask --------------------------------------------------------------------------------------------------------

with_flask = flask.Flask(__name__)
with_flask.secret_key = "secret"


@with_flask.get("/login/<name>")
def login(name):
    flask.session["name"] = name
    return "in"


@with_flask.get("/<name>")
def stream(name):
    flask.g.name = name

    def tell():
        assert flask.url_for("stream", name=flask.g.name) == flask.request.script_root + flask.request.path
        flask.g.seen = flask.g.get("seen", 0) + 1
        return f"{flask.g.name}={flask.session.get('name')}={flask.request.args['q']}={flask.g.seen}"

    return flask.Response(flask.stream_with_context(blocks(flask.request.environ["maypole.suspend"], with_thread(tell))))


@with_flask.teardown_request
def end_request(error):
    ENDS.append(f"{flask.g.get('name')} {error!r}")


# --- Django -------------------------------------------------------------------------------------------------------


def view(request, name):
    translation.activate(name)
    timezone.activate("Asia/Tokyo" if name == "de" else "America/Lima")
    with django.db.connection.cursor() as cursor:
        cursor.execute("SELECT 1")

    def tell():
        with django.db.connection.cursor() as cursor:
            cursor.execute("SELECT 40 + 2")
            (found,) = cursor.fetchone()
        return f"{translation.get_language()}={timezone.get_current_timezone_name()}={found}"

    return django.http.StreamingHttpResponse(blocks(request.META["maypole.suspend"], with_thread(tell)))


def finished(**_):
    ENDS.append("request_finished")


django.core.signals.request_finished.connect(finished)
urlpatterns = [django.urls.path("<name>", view)]
django.conf.settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="secret", USE_TZ=True, LANGUAGES=[("de", "German"), ("es", "Spanish")],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:suspending?mode=memory&cache=shared"}},
)  # fmt: skip
with_django = django.core.wsgi.get_wsgi_application()


# --- libraries that keep something for the current request ----------------------------------------------------------

STACK = LocalStack()
TOP = STACK("name")
trace.set_tracer_provider(TracerProvider())
TRACER = trace.get_tracer(__name__)


def with_libraries(environ, start_response):
    """Uses werkzeug's locals, structlog's context and the current span and baggage of OpenTelemetry."""
    request = werkzeug.Request(environ)
    name = request.path[1:]
    start_response("200 OK", TEXT)

    class Named:
        pass

    def parts():
        value = Named()
        value.name = name
        STACK.push(value)
        structlog.contextvars.bind_contextvars(name=name)
        token = context.attach(baggage.set_baggage("name", name))
        try:
            with TRACER.start_as_current_span(name):
                yield from blocks(environ["maypole.suspend"], with_thread(tell))
        finally:
            # A token is only good in the context in which it was made.
            context.detach(token)
            STACK.pop()
            structlog.contextvars.unbind_contextvars("name")
            ENDS.append(f"left {structlog.contextvars.get_contextvars()} {STACK.top}")

    def tell():
        found = [TOP, structlog.contextvars.get_contextvars()["name"], baggage.get_baggage("name"), trace.get_current_span().name]
        return "=".join(map(str, found))

    return parts()


def ends(environ, start_response):
    start_response("200 OK", TEXT)
    return ["\n".join(ENDS).encode()]


application = DispatcherMiddleware(
    root, {"/flask": with_flask, "/django": with_django, "/libraries": with_libraries, "/ends": ends}
)
