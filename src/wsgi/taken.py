"""The socket of a connection that an application takes over, as Python code has it.

Owns: the client's socket from then on. Runs on: whichever thread of the application uses it; nothing here is a part of
a request that is answered in the usual way. The server executes this file once per process.
"""

import os
import socket


class Connection(socket.socket):
    """A client's connection; the application's own, and blocking."""

    # `_hold`: the server's hold on the connection, which must not outlive the socket, or the client would not see its end.
    # `_received`: a bytearray of what came behind the request; only `ConnectionWithInput` looks at it.
    __slots__ = ("_hold", "_received")

    def dup(self):
        """Another socket of the same connection. What was received already is read from either of them."""
        other = super().dup()
        other._hold, other._received = self._hold, self._received
        return other

    def detach(self):
        """The descriptor, which is the caller's to close from now on."""
        descriptor = super().detach()
        self._hold = None
        return descriptor

    def _real_close(self, *arguments):
        super()._real_close(*arguments)
        self._hold = None


class ConnectionWithInput(Connection):
    """A connection from which something was received behind the request: that is read first.

    select() and the like do not know of it, so read before the first wait.
    """

    __slots__ = ()

    def recv(self, bufsize, flags=0):
        """As socket.recv()."""
        if not self._received or bufsize < 0:
            return super().recv(bufsize, flags)
        return bytes(self._take(bufsize, flags))

    def recv_into(self, buffer, nbytes=0, flags=0):
        """As socket.recv_into()."""
        if not self._received or nbytes < 0:
            return super().recv_into(buffer, nbytes, flags)
        with memoryview(buffer) as view, view.cast("B") as room:
            data = self._take(min(nbytes or len(room), len(room)), flags)
            room[:len(data)] = data
        return len(data)

    def recvfrom(self, bufsize, flags=0):
        """As socket.recvfrom()."""
        if not self._received or bufsize < 0:
            return super().recvfrom(bufsize, flags)
        return bytes(self._take(bufsize, flags)), None

    def recvfrom_into(self, buffer, nbytes=0, flags=0):
        """As socket.recvfrom_into()."""
        if not self._received or nbytes < 0:
            return super().recvfrom_into(buffer, nbytes, flags)
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize, ancbufsize=0, flags=0):
        """As socket.recvmsg()."""
        if not self._received or bufsize < 0:
            return super().recvmsg(bufsize, ancbufsize, flags)
        return bytes(self._take(bufsize, flags)), [], 0, None

    def recvmsg_into(self, buffers, ancbufsize=0, flags=0):
        """As socket.recvmsg_into()."""
        buffers = list(buffers)
        if not self._received or not buffers:
            return super().recvmsg_into(buffers, ancbufsize, flags)
        return self.recv_into(buffers[0], 0, flags), [], 0, None

    def _take(self, count, flags):
        data = self._received[:count]
        if not flags & socket.MSG_PEEK:
            del self._received[:count]
        return data


class Unused(Connection):
    """What `werkzeug.socket` is before it is used: the first use of anything it has takes the connection over.

    It becomes a `Connection` then. Until that moment an ordinary response can be sent.
    """

    __slots__ = ()

    def __getattribute__(self, name):
        # Looking at the object is no use of it: printing the environ, copying it, asking for its class.
        if not name.startswith("__"):
            _fill(self, *object.__getattribute__(self, "_hold")())
            return getattr(self, name)
        return object.__getattribute__(self, name)

    def __repr__(self):
        return "<the client's socket, not used yet>"


def _fill(connection, descriptor, received, hold):
    """Makes an object without a socket the socket of `descriptor`, which is closed if that fails."""
    connection.__class__ = ConnectionWithInput if received else Connection
    try:
        socket.socket.__init__(connection, fileno=descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    connection._hold, connection._received = hold, bytearray(received)
    # Whatever socket.setdefaulttimeout() says; the descriptor itself does not block yet.
    connection.settimeout(None)
    return connection


def connection(descriptor, received, hold):
    """The socket of a connection that was taken over; `received` is what came behind the request."""
    return _fill(Connection.__new__(Connection), descriptor, received, hold)


def unused(take):
    """A socket for `werkzeug.socket`: `take()` takes the connection over, and answers what `connection` is given."""
    made = Unused.__new__(Unused)
    Connection._hold.__set__(made, take)
    return made
