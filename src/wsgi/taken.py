"""The Python socket of a connection that an application takes over.

Owns: the client's socket after the takeover. Runs on: the application's thread that uses the socket. Ordinary requests
do not run this code. The server executes this file once per process.
"""

import os
import socket


class Connection(socket.socket):
    """The blocking socket of a client's connection, owned by the application."""

    # `_hold`: the server's hold on the connection. It must not outlive the socket: the client would not see the close.
    # `_received`: a bytearray of the bytes received after the request; only `ConnectionWithInput` reads it.
    __slots__ = ("_hold", "_received")

    def dup(self):
        """Returns another socket of the same connection. Both read the same already received bytes."""
        other = super().dup()
        other._hold, other._received = self._hold, self._received
        return other

    def detach(self):
        """Returns the descriptor, which the caller has to close from now on."""
        descriptor = super().detach()
        self._hold = None
        return descriptor

    def _real_close(self, *arguments):
        super()._real_close(*arguments)
        self._hold = None


class ConnectionWithInput(Connection):
    """A connection with bytes already received after the request, which are read first.

    select() and poll() do not report these bytes, so read before the first wait.
    """

    __slots__ = ()

    def recv(self, bufsize, flags=0):
        """Reads like socket.recv()."""
        if not self._received or bufsize < 0:
            return super().recv(bufsize, flags)
        return bytes(self._take(bufsize, flags))

    def recv_into(self, buffer, nbytes=0, flags=0):
        """Reads like socket.recv_into()."""
        if not self._received or nbytes < 0:
            return super().recv_into(buffer, nbytes, flags)
        with memoryview(buffer) as view, view.cast("B") as room:
            data = self._take(min(nbytes or len(room), len(room)), flags)
            room[:len(data)] = data
        return len(data)

    def recvfrom(self, bufsize, flags=0):
        """Reads like socket.recvfrom()."""
        if not self._received or bufsize < 0:
            return super().recvfrom(bufsize, flags)
        return bytes(self._take(bufsize, flags)), None

    def recvfrom_into(self, buffer, nbytes=0, flags=0):
        """Reads like socket.recvfrom_into()."""
        if not self._received or nbytes < 0:
            return super().recvfrom_into(buffer, nbytes, flags)
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize, ancbufsize=0, flags=0):
        """Reads like socket.recvmsg()."""
        if not self._received or bufsize < 0:
            return super().recvmsg(bufsize, ancbufsize, flags)
        return bytes(self._take(bufsize, flags)), [], 0, None

    def recvmsg_into(self, buffers, ancbufsize=0, flags=0):
        """Reads like socket.recvmsg_into()."""
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
    """The value of `werkzeug.socket` before its first use. The first use of an attribute takes the connection over.

    The object then becomes a `Connection`. Before that, the application can still send an ordinary response.
    """

    __slots__ = ()

    def __getattribute__(self, name):
        # Names with two underscores do not count as a use: printing or copying the environ must not take over.
        if not name.startswith("__"):
            _fill(self, *object.__getattribute__(self, "_hold")())
            return getattr(self, name)
        return object.__getattribute__(self, name)

    def __repr__(self):
        return "<the client's socket, not used yet>"


def _fill(connection, descriptor, received, hold):
    """Turns an empty object into the socket of `descriptor`. Closes the descriptor on failure."""
    connection.__class__ = ConnectionWithInput if received else Connection
    try:
        socket.socket.__init__(connection, fileno=descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    connection._hold, connection._received = hold, bytearray(received)
    # Make the socket blocking, also if socket.setdefaulttimeout() is set. The descriptor is still non-blocking.
    connection.settimeout(None)
    return connection


def connection(descriptor, received, hold):
    """Makes the socket of a connection after the takeover; `received` has the bytes received after the request."""
    return _fill(Connection.__new__(Connection), descriptor, received, hold)


def unused(take):
    """Makes the value of `werkzeug.socket`. `take()` takes the connection over and returns `connection`'s arguments."""
    made = Unused.__new__(Unused)
    Connection._hold.__set__(made, take)
    return made
