"""A response that waits for an event, below one middleware for each path. `/fire` is the event."""

import io
import logging
import wsgiref.headers
from wsgiref.validate import validator

import django.conf
import django.core.wsgi
import django.http
import django.urls
import opentelemetry.instrumentation.wsgi
import opentelemetry.trace
import paste.cascade
import paste.gzipper
import paste.recursive
import paste.registry
import paste.translogger
import sentry_sdk.integrations.wsgi
import webob
import webob.dec
import werkzeug.middleware.lint
import werkzeug.middleware.profiler
import werkzeug.wsgi
import whitenoise
from django.middleware.gzip import GZipMiddleware
from django.middleware.http import ConditionalGetMiddleware
from opentelemetry.sdk.trace import TracerProvider
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.http_proxy import ProxyMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.middleware.shared_data import SharedDataMiddleware

from waiting import bare, blocks, root

# --- Django -------------------------------------------------------------------------------------------------------


def view(request):
    return django.http.StreamingHttpResponse(blocks(request.META["maypole.suspend"]), content_type="text/plain")


urlpatterns = [
    django.urls.path("all", view),
    django.urls.path("conditional", ConditionalGetMiddleware(view)),
    django.urls.path("gzip", GZipMiddleware(view)),
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
django.conf.settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="secret", MIDDLEWARE=MIDDLEWARE,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)  # fmt: skip

# --- WebOb --------------------------------------------------------------------------------------------------------


@webob.dec.wsgify.middleware
def with_webob(request, application):
    response = request.get_response(application)
    response.headers["X-Seen"] = "yes"
    return response


# --- code of one's own --------------------------------------------------------------------------------------------


def adds_a_field(application):
    def wrapped(environ, start_response):
        def start(status, headers, exc_info=None):
            wsgiref.headers.Headers(headers)["X-Seen"] = "yes"
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return wrapped


class Closing:
    """Runs something at the end, as PEP 3333 shows it."""

    def __init__(self, application):
        self.application = application

    def __call__(self, environ, start_response):
        return werkzeug.wsgi.ClosingIterator(self.application(environ, start_response), [lambda: logging.info("closed")])


def joins(application):
    return lambda environ, start_response: [b"".join(application(environ, start_response))]


def skips_empty(application):
    def wrapped(environ, start_response):
        blocks = application(environ, start_response)
        try:
            yield from filter(None, blocks)
        finally:
            blocks.close()

    return wrapped


sentry_sdk.init(None, traces_sample_rate=1.0, default_integrations=False)
opentelemetry.trace.set_tracer_provider(TracerProvider())
PASTE_REGISTRY = paste.registry.RegistryManager
WRAPPERS = {
    "proxy_fix": ProxyFix,
    "shared_data": lambda application: SharedDataMiddleware(application, {"/static": "."}),
    "dispatcher": lambda application: DispatcherMiddleware(application, {"/other": root}),
    "lint": werkzeug.middleware.lint.LintMiddleware,
    "http_proxy": lambda application: ProxyMiddleware(application, {"/elsewhere": {"target": "http://127.0.0.1:1"}}),
    "webob": with_webob,
    "paste_registry": PASTE_REGISTRY,
    "paste_recursive": paste.recursive.RecursiveMiddleware,
    "paste_cascade": lambda application: paste.cascade.Cascade([application]),
    "paste_translogger": paste.translogger.TransLogger,
    "validator": validator,
    "whitenoise": lambda application: whitenoise.WhiteNoise(application, root="."),
    "sentry": sentry_sdk.integrations.wsgi.SentryWsgiMiddleware,
    "opentelemetry": opentelemetry.instrumentation.wsgi.OpenTelemetryMiddleware,
    "own_start_response": adds_a_field,
    "own_closing": Closing,
    "joins": joins,
    "skips_empty": skips_empty,
    "profiler": lambda application: werkzeug.middleware.profiler.ProfilerMiddleware(application, stream=io.StringIO()),
    "paste_gzip": paste.gzipper.middleware,
}
application = DispatcherMiddleware(
    root,
    {"/django": django.core.wsgi.get_wsgi_application(), **{f"/{name}": wrap(bare) for name, wrap in WRAPPERS.items()}},
)
