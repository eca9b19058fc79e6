"""WebSockets that rest, in Django."""

import django
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.handlers.wsgi import WSGIHandler
from django.urls import path

from maypole.contrib.django.websocket import WebSocketConsumer

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for the test",  # noqa: S106
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()


class Room(WebSocketConsumer):
    settings = {"max_message": 1000}

    def connect(self):
        if self.variables["name"] == "closed":
            raise PermissionDenied

    def connected(self):
        self.send(f"welcome to {self.variables['name']}")

    def receive(self, message):
        if message == "leave":
            return self.close(1000, "left")
        self.send(f"{self.request.path} {message}")

    def disconnect(self, code, reason):
        print(f"disconnected {code} {reason}", flush=True)


urlpatterns = [path("room/<str:name>", Room.as_view())]
app = WSGIHandler()
