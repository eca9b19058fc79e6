"""Server-sent events: streams that a browser's `EventSource` reads, for bare WSGI, Flask, Django and others.

`EventStream` is the stream of one client. `Broadcast` sends events to all clients that have subscribed to a topic, and a
`Subscription` is the stream of one of them. `Message` is an event, and `encode` and `comment` return events and comments as bytes.

With Maypole, a client that waits holds no thread. With another server, the thread that iterates waits.

*Source*: HTML standard, "Server-sent events".
"""

from ._broadcast import Broadcast, Subscription
from ._format import Message, comment, encode
from ._stream import EventStream

__all__ = ["Broadcast", "EventStream", "Message", "Subscription", "comment", "encode"]
