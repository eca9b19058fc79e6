"""The page, the form and the stream of notes."""

import logging
import re
import threading

from django.db import Error, close_old_connections
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from maypole import sse

from .models import Note

#: A browser that was away gets at most this many notes.
MISSED_MAX = 1000
added = threading.Event()


def messages(after):
    """Returns the notes after a number as events."""
    return [sse.Message(note.text, "note", str(note.pk)) for note in Note.objects.filter(pk__gt=after).order_by("pk")]


def newest():
    note = Note.objects.order_by("pk").last()
    return note.pk if note else 0


def number(id):
    """Returns the number of a note. It raises ValueError for an id that a client has invented."""
    if not re.fullmatch("[0-9]{1,18}", id):
        raise ValueError(f"no id of a note: {id!r}")
    return int(id)


def follow(seen):
    """Sends new notes to this worker's browsers. (A thread of each worker.)"""
    while True:
        # What this worker has added is sent at once, and what others have added within 100 ms.
        added.wait(0.1)
        added.clear()
        try:
            for message in messages(seen):
                broadcast.send("notes", *message)
                seen = int(message.id)
        except Error:
            logging.getLogger("notes").exception("cannot read the notes")
            close_old_connections()


def start():
    """Begins to follow, with what is added from now on."""
    threading.Thread(target=follow, args=[newest()], daemon=True).start()


def older(topics, id):
    return messages(max(number(id), newest() - MISSED_MAX))


broadcast = sse.Broadcast(order=number, older=older, start=start, retry="1s")


@require_GET
def index(request):
    notes = list(Note.objects.order_by("pk"))
    return render(request, "notes.html", {"notes": notes, "last": notes[-1].pk if notes else 0})


@require_GET
def events(request):
    # The page has said which note it shows last. A browser that connects again says it in Last-Event-ID.
    return broadcast.subscribe(request, "notes", last_event_id=request.GET.get("after")).response()


@require_POST
def add(request):
    Note.objects.create(text=request.POST["text"])
    added.set()
    return HttpResponse(status=204)


urlpatterns = [path("", index), path("events", events), path("add", add)]
