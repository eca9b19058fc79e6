"""A response that waits for an event, made with frameworks and passed through middleware."""

import contextvars
import zlib
from wsgiref.validate import validator

import django.conf
import django.core.wsgi
import django.http
import django.urls
import flask
import webob
import webob.dec
import werkzeug
from django.middleware.gzip import GZipMiddleware
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from waiting import bare, blocks, root

# --- werkzeug -----------------------------------------------------------------------------------------------------


@werkzeug.Request.application
def with_werkzeug(request):
    return werkzeug.Response(blocks(request.environ["maypole.suspend"], lambda: request.args["name"]))


# --- WebOb --------------------------------------------------------------------------------------------------------


@webob.dec.wsgify
def with_webob(request):
    return webob.Response(app_iter=blocks(request.environ["maypole.suspend"], lambda: request.GET["name"]))


# --- Flask --------------------------------------------------------------------------------------------------------

with_flask = flask.Flask(__name__)


@with_flask.get("/")
def stream():
    suspend = flask.request.environ["maypole.suspend"]
    flask.g.name = flask.request.args["name"]
    return flask.Response(flask.stream_with_context(blocks(suspend, lambda: f"{flask.g.name}={flask.request.args['name']}")))


# --- Django -------------------------------------------------------------------------------------------------------

LANGUAGE = contextvars.ContextVar("LANGUAGE")


def view(request):
    LANGUAGE.set(request.GET["name"])
    return django.http.StreamingHttpResponse(blocks(request.META["maypole.suspend"], LANGUAGE.get))


urlpatterns = [django.urls.path("", view), django.urls.path("gzip/", GZipMiddleware(view))]
django.conf.settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="secret")
with_django = django.core.wsgi.get_wsgi_application()


# --- bare WSGI, and middleware around it --------------------------------------------------------------------------


def gzip(application):
    """Compresses each block, and passes empty ones on."""

    def compressed(environ, start_response):
        def start(status, headers, exc_info=None):
            return start_response(status, [*headers, ("Content-Encoding", "gzip")], exc_info)

        compressor = zlib.compressobj(wbits=31)
        inner = application(environ, start)
        try:
            for block in inner:
                yield compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH) if block else b""
            yield compressor.flush()
        finally:
            inner.close()

    return compressed


application = ProxyFix(
    DispatcherMiddleware(
        root,
        {
            "/werkzeug": with_werkzeug,
            "/webob": with_webob,
            "/flask": with_flask,
            "/django": with_django,
            "/bare": bare,
            "/gzip": gzip(bare),
            "/validated": validator(bare),
        },
    )
)
