"""A client that speaks HTTP/2, and frames in raw bytes.

*Invariants*: every read has a deadline.
"""

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from h2.exceptions import ProtocolError

from client import Client, Closed
from tls import TlsClient, context

# The library takes a GOAWAY for the end. But open streams go on (RFC 9113 §6.8).
STATES, INPUTS = h2.connection.ConnectionState, h2.connection.ConnectionInputs
h2.connection.H2ConnectionStateMachine._transitions[STATES.CLIENT_OPEN, INPUTS.RECV_GOAWAY] = (None, STATES.CLIENT_OPEN)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11


def frame(kind, flags=0, stream=0, payload=b""):
    """Returns the bytes of a frame (RFC 9113 §4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def frames(data):
    """Splits bytes into frames: pairs of the kind and the payload."""
    found = []
    while len(data) >= 9:
        length = int.from_bytes(data[:3])
        found.append((data[3], data[9 : 9 + length]))
        data = data[9 + length :]
    return found


class Response:
    """What has come of a response."""

    def __init__(self):
        self.status, self.fields, self.body, self.interim = None, [], b"", []
        self.ended, self.reset, self.trailers = False, None, None

    def get(self, name, default=None):
        values = [value for key, value in self.fields if key == name.lower()]
        assert len(values) < 2, f"{name} comes {len(values)} times: {values}"
        return values[0] if values else default

    def __repr__(self):
        return f"<{self.status} {self.fields} {self.body[:200]!r} reset {self.reset}>"


class Http2Client:
    """A client that keeps to the rules, unless a test sends something else with `raw`. With `tls`, it agrees on HTTP/2
    during the handshake; `tls` may be the settings of the handshake. It sends `first` before everything else."""

    def __init__(self, server, tls=False, flow=True, settings=None, first=b"", **more):
        address = server if isinstance(server, str) else server.address
        if tls:
            trust = context(alpn=("h2", "http/1.1")) if tls is True else tls
            self.client = TlsClient(address, trust, first=first, **more)
            assert self.client.socket.selected_alpn_protocol() == "h2"
        else:
            self.client = Client(address, **more)
            self.client.socket.sendall(first)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False,
                                           normalize_outbound_headers=False)
        self.state = h2.connection.H2Connection(config)
        if settings:
            self.state.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        #: Whether what has come is acknowledged, so that more may come.
        self.flow = flow
        self.responses, self.goaways, self.pongs = {}, [], 0
        self.ended = False
        self.state.initiate_connection()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def flush(self):
        if data := self.state.data_to_send():
            self.client.socket.sendall(data)

    def raw(self, data):
        """Sends bytes that the client's state does not know."""
        self.client.socket.sendall(data)

    def request(self, path="/", *fields, method="GET", body=None, authority="localhost", end=True, pseudo=None):
        """Sends a request, and its body as far as the window allows. Returns the stream."""
        stream = self.state.get_next_available_stream_id()
        pseudo = pseudo or [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)]
        self.state.send_headers(stream, [*pseudo, *fields], end_stream=body is None and end)
        self.responses[stream] = Response()
        self.flush()
        if body is not None:
            self.send(stream, body, end)
        return stream

    def send(self, stream, body, end=True):
        """Sends data, and takes what comes while the window is closed."""
        while True:
            room = min(self.state.local_flow_control_window(stream), self.state.max_outbound_frame_size)
            part, body = body[:room], body[room:]
            if part or not body:
                self.state.send_data(stream, part, end_stream=end and not body)
                self.flush()
            if not body or self.responses[stream].reset is not None:
                return
            if not part:
                self.take()

    def reset(self, stream, code=CANCEL):
        self.state.reset_stream(stream, code)
        self.flush()

    def take(self):
        """Takes one piece of what the server sends."""
        if self.ended:
            raise Closed(b"")
        client = self.client
        if not client.buffer:
            try:
                client._more()
            except Closed:
                self.ended = True
                raise
        data, client.buffer = bytes(client.buffer), type(client.buffer)()
        try:
            events = self.state.receive_data(data)
        except ProtocolError as error:
            raise AssertionError(f"the server breaks a rule: {error}") from error
        for event in events:
            self.note(event)
        try:
            self.flush()
        except OSError:
            pass

    def note(self, event):
        response = self.responses.get(getattr(event, "stream_id", None))
        match event:
            case h2.events.InformationalResponseReceived(headers=fields):
                response.interim.append((int(dict(fields)[":status"]), [pair for pair in fields if pair[0] != ":status"]))
            case h2.events.ResponseReceived(headers=fields):
                response.status = int(dict(fields)[":status"])
                response.fields = [(name, value) for name, value in fields if name != ":status"]
            case h2.events.DataReceived(data=data, flow_controlled_length=length):
                response.body += data
                if self.flow and length:
                    self.state.acknowledge_received_data(length, event.stream_id)
            case h2.events.TrailersReceived(headers=fields):
                response.trailers = fields
            case h2.events.StreamEnded():
                response.ended = True
            case h2.events.StreamReset(error_code=code):
                response.reset = int(code)
            case h2.events.ConnectionTerminated(error_code=code, last_stream_id=last):
                self.goaways.append((int(code), last))
            case h2.events.PingAckReceived():
                self.pongs += 1

    def until(self, is_so):
        """Takes what comes until `is_so()`."""
        while not is_so():
            self.take()

    def response(self, stream):
        """Returns the response once it has ended or was reset."""
        response = self.responses[stream]
        self.until(lambda: response.ended or response.reset is not None)
        return response

    def get(self, path="/", *fields, **more):
        return self.response(self.request(path, *fields, **more))

    def ping(self):
        """Sends a PING and waits for its reply: what was sent before has been read by then."""
        before = self.pongs
        self.state.ping(b"12345678")
        self.flush()
        self.until(lambda: self.pongs > before)

    def end(self):
        """Takes what comes until the server closes the connection. Returns the last GOAWAY."""
        try:
            while True:
                self.take()
        except (Closed, OSError):
            return self.goaways[-1] if self.goaways else None
