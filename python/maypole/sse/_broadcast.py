"""Events for many clients, by topic, with a history for those that connect again.

*Owns*: the topics, their subscribers and their histories. *Runs on*: any thread. *Invariants*: the lock of a broadcast
is taken before that of a stream, never after it. A subscriber gets the events of its topics in the order of `send`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any, NamedTuple

from .._durations import Duration
from . import _format
from ._format import Message
from ._stream import EventStream, Overflow, check_limits


class _Sent(NamedTuple):
    """An event of the history."""

    #: How many events the broadcast had sent before this one.
    number: int
    id: str
    #: What its id is ordered by; None without `order`.
    key: Any
    block: bytes


class _Topic:
    """The subscribers and the history of a topic."""

    __slots__ = ("events", "forget", "forgotten", "numbers", "streams")

    def __init__(self, forgotten: int) -> None:
        self.events: deque[_Sent] = deque()
        #: The numbers of the events by their ids, without `order`.
        self.numbers: dict[str, int] = {}
        #: The number of the newest event that the history has no more; -1 if there is none.
        self.forgotten = forgotten
        self.streams: dict[weakref.ref[Subscription], None] = {}
        # The interpreter may call this at any point of any thread, so it takes no lock.
        streams = self.streams
        self.forget: Callable[[weakref.ref[Subscription]], object] = lambda stream: streams.pop(stream, None)


class Subscription(EventStream):
    """A stream of the events of topics, which `Broadcast.subscribe` returns."""

    __slots__ = ("_after", "_broadcast", "_held", "missed", "topics")

    def __init__(self, broadcast: Broadcast, topics: tuple[str, ...], request: Any, options: dict[str, Any]) -> None:
        super().__init__(request, **options)
        self._broadcast = broadcast
        #: What it has subscribed to.
        self.topics = topics
        #: Whether events are lost that were sent after the client's last one: the client should load its page again.
        self.missed = False
        # Events up to this key were seen already.
        self._after: Any = None
        # Events that come while older ones are looked up.
        self._held: list[_Sent] | None = None

    def close(self) -> None:
        """Ends the stream after the events that wait. The server calls it when the client has left."""
        self._broadcast._leave(self)
        super().close()


class Broadcast:
    """Sends each event to all clients that have subscribed to its topic. An event is encoded once.

    `history` is how many events of a topic are kept for clients that connect again. `max_topics` is how many topics are
    kept without a subscriber; the histories of further ones are forgotten.

    The ids of events are made by the broadcast, or given to `send`. With `order`, ids of all topics grow, and `order(id)`
    returns what they are compared by, such as `int`; it raises ValueError for what is no id. `older(topics, id)` returns the
    events after an id, oldest first, if the history in memory does not reach back that far: from a database, say. It
    needs `order`.

    `start` is called once in each process, before its first subscription, which waits for it: the place to start a thread
    that listens to a database or a broker. If it raises, the next subscription tries again.

    `heartbeat`, `retry`, `max_waiting` and `overflow` are those of each `EventStream`.
    """

    def __init__(
        self,
        *,
        history: int = 100,
        max_topics: int = 10_000,
        order: Callable[[str], Any] | None = None,
        older: Callable[[tuple[str, ...], str], Iterable[Message]] | None = None,
        start: Callable[[], object] | None = None,
        heartbeat: Duration | None = "15s",
        retry: Duration | None = None,
        max_waiting: int = 1000,
        overflow: Overflow = "close",
    ) -> None:
        check_limits(max_waiting, overflow)
        if older is not None and order is None:
            raise ValueError("older needs order, which says in which order ids are")
        if history < 0 or max_topics < 0:
            raise ValueError("history and max_topics are at least 0")
        self._history, self._max_topics, self._order, self._older = history, max_topics, order, older
        self._options = {"heartbeat": heartbeat, "retry": retry, "max_waiting": max_waiting, "overflow": overflow}
        self._start = start
        self._starts = threading.Lock()
        #: The process for which `start` was called.
        self._started: int | None = None
        # Reentrant: the interpreter may close a stream while this thread holds the lock.
        self._lock = threading.RLock()
        # The topic that was used last is at the end.
        self._topics: dict[str, _Topic] = {}
        self._sent = 0
        #: The number of the newest event of the topics that were dropped.
        self._dropped = -1
        #: How many topics there may be before those without a subscriber are looked at.
        self._topics_max = max_topics
        # An id of another process is none of ours.
        self._ids = os.urandom(6).hex()

    def subscribe(
        self,
        request: Any,
        *topics: str,
        last_event_id: str | None = None,
        on_close: Callable[[], object] | None = None,
    ) -> Subscription:
        """Returns a stream of the events of these topics, for a request or an environ.

        If the client has seen an event before (`Last-Event-ID`, or `last_event_id` if its request has none), the stream
        begins with the events after that one. `stream.missed` is true if some of them are lost. The subscription ends
        when the stream is closed, or when the program has no reference to it.
        """
        if not topics:
            raise TypeError("subscribe needs a topic")
        own = {"last_event_id": last_event_id, "on_close": on_close}
        stream = Subscription(self, topics, request, {**self._options, **own})
        if stream.closed:
            return stream
        if self._start is not None:
            with self._starts:
                if self._started != os.getpid():
                    self._start()
                    self._started = os.getpid()
        last = stream.last_event_id
        key = self._key(last)
        with self._lock:
            if last is not None:
                is_whole = self._replay(stream, last, key)
                if not is_whole and self._older is not None and key is not None:
                    # What has come so far is not all, so nothing of it is sent before the older events.
                    stream._held = []
                stream.missed = not is_whole and stream._held is None
            for topic in topics:
                found = self._topic(topic)
                found.streams[weakref.ref(stream, found.forget)] = None
                # Meanwhile, the interpreter may have closed the topic's last other stream, which drops the topic.
                self._topics[topic] = found
        if stream._held is not None:
            self._fetch(stream, last or "", key)
        return stream

    def send(self, topic: str, data: str, event: str | None = None, id: str | None = None) -> str:
        """Sends an event to the subscribers of a topic, from any thread. Returns its id.

        Raises ValueError if `event` or `id` has a line end, or `id` a NUL, or if `order` refuses the id.
        """
        resumes, full = [], []
        with self._lock:
            number = self._sent
            if id is None:
                if self._order is not None:
                    raise ValueError("an event needs an id, because this broadcast has an order of ids")
                id = f"{self._ids}-{number}"
            sent = _Sent(number, id, None if self._order is None else self._order(id), _format.encode(data, event, id))
            self._sent += 1
            found = self._topics.get(topic) if self._history == 0 else self._topic(topic)
            if found is None:
                return id
            self._remember(found, sent)
            if self._history:
                # As in `subscribe`.
                self._topics[topic] = found
            for reference in list(found.streams):
                stream = reference()
                if stream is None or not self._takes(stream, sent):
                    continue
                with stream._lock:
                    if not stream._put(sent.block):
                        full.append(stream)
                    resume = stream._wake()
                if resume is not None:
                    resumes.append(resume)
        for resume in resumes:
            resume()
        for stream in full:
            stream.close()
        return id

    def subscribers(self, topic: str) -> int:
        """Returns how many open streams have subscribed to a topic."""
        with self._lock:
            found = self._topics.get(topic)
            return 0 if found is None else len(found.streams)

    def close(self) -> None:
        """Ends all streams. Browsers connect again."""
        with self._lock:
            # A copy, because the interpreter may close a stream while this goes on.
            streams = [reference() for topic in list(self._topics.values()) for reference in list(topic.streams)]
        for stream in streams:
            if stream is not None:
                stream.close()

    def _key(self, id: str | None) -> Any:
        """Returns what an id is ordered by. None without an order, and for what is no id: the client has chosen it."""
        if id is None or self._order is None:
            return None
        try:
            return self._order(id)
        except ValueError:
            return None

    def _topic(self, name: str) -> _Topic:
        """Returns a topic, and makes it if it is new. (With the lock.)"""
        found = self._topics.pop(name, None)
        if found is None:
            self._forget_topics()
            found = _Topic(self._dropped)
        self._topics[name] = found
        return found

    def _forget_topics(self) -> None:
        """Drops the histories that were not used for the longest time, if there are too many. (With the lock.)"""
        if len(self._topics) < self._topics_max:
            return
        idle = [name for name, topic in list(self._topics.items()) if not topic.streams]
        # Some more at once, so that not every new topic has to look at all.
        some = self._max_topics // 4
        for name in idle[: max(0, len(idle) - self._max_topics + some)]:
            topic = self._topics.pop(name, None)
            if topic is None:
                # The interpreter has closed its last stream just now.
                continue
            newest = topic.events[-1].number if topic.events else topic.forgotten
            self._dropped = max(self._dropped, newest)
        self._topics_max = len(self._topics) + some + 1

    def _remember(self, topic: _Topic, sent: _Sent) -> None:
        topic.events.append(sent)
        if self._order is None:
            topic.numbers[sent.id] = sent.number
        while len(topic.events) > self._history:
            oldest = topic.events.popleft()
            topic.forgotten = oldest.number
            if topic.numbers.get(oldest.id) == oldest.number:
                del topic.numbers[oldest.id]

    def _takes(self, stream: Subscription, sent: _Sent) -> bool:
        """Returns whether a stream gets an event now. (With the lock.)"""
        if stream._after is not None:
            if sent.key <= stream._after:
                return False
            stream._after = None
        if stream._held is not None:
            stream._held.append(sent)
            return False
        return True

    def _replay(self, stream: Subscription, last: str, key: Any) -> bool:
        """Puts the events after `last` into a new stream. Returns whether these are all. (With the lock.)"""
        topics = [self._topics.get(topic) or _Topic(self._dropped) for topic in dict.fromkeys(stream.topics)]
        number, has_order = -1, self._order is not None
        if has_order:
            if key is None:
                return False
            stream._after = key
            # An event up to the last one is in memory, so the events after it are there, too.
            is_whole = all(topic.events and topic.events[0].key <= key for topic in topics)
            if not is_whole and self._older is not None:
                return False
        else:
            number = max((topic.numbers.get(last, -1) for topic in topics), default=-1)
            is_whole = number >= 0 and all(topic.forgotten <= number for topic in topics)

        def is_new(sent: _Sent) -> bool:
            return bool(sent.key > key) if has_order else sent.number > number

        # From the newest event back, so that a client that was away for a moment costs little.
        events = [sent for topic in topics for sent in takewhile(is_new, reversed(topic.events))]
        if events:
            events.sort(key=lambda sent: sent.number)
            stream._after = events[-1].key
            # One block, which is none of the events that `max_waiting` counts by the time the client reads.
            stream._waiting[-1] += b"".join(sent.block for sent in events)
        return is_whole

    def _fetch(self, stream: Subscription, last: str, key: Any) -> None:
        """Puts the events that `older` returns into a new stream, and those that came meanwhile."""
        assert self._older is not None and self._order is not None
        blocks = []
        try:
            for message in self._older(stream.topics, last):
                message = Message(*message)
                if message.id is None:
                    raise ValueError("an event that older returns has no id")
                key = max(key, self._order(message.id))
                blocks.append(_format.encode(*message))
        except BaseException:
            stream.close()
            raise
        with self._lock:
            held, stream._held = stream._held or [], None
            stream._after = key
            blocks += [sent.block for sent in held if self._takes(stream, sent)]
            with stream._lock:
                stream._waiting[-1] += b"".join(blocks)

    def _leave(self, stream: Subscription) -> None:
        reference = weakref.ref(stream)
        with self._lock:
            for name in stream.topics:
                found = self._topics.get(name)
                if found is None:
                    continue
                found.streams.pop(reference, None)
                if not found.streams and not found.events:
                    del self._topics[name]
