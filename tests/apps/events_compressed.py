"""Server-sent events with Django behind its GZipMiddleware, which would keep events and empty blocks."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

from maypole import sse

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="only a test", MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"])
broadcast = sse.Broadcast(heartbeat="60s")


def events(request):
    return broadcast.subscribe(request, "news").response()


def send(request):
    broadcast.send("news", request.body.decode())
    return HttpResponse(str(broadcast.subscribers("news")))


urlpatterns = [path("events", events), path("send", send)]
application = get_wsgi_application()
