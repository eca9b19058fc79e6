"""`start_response`, `write`, and what becomes of the head and of its lengths."""

from pep3333.client import came, check, cut, good, need


@check("MUST")
def write_callable(client):
    good(client.call("write_callable"))


@check("MUST")
def write_only(client):
    good(client.call("write_only"), b"ab")


@check("MUST")
def headers_held_until_first_block(client):
    """Empty blocks do not send the head: exc_info can still replace it."""
    replaced(client.call("headers_held"))


@check("SHOULD")
def exc_info_before_headers(client):
    replaced(client.call("exc_before"))


def replaced(reply):
    good(reply, b"new", 503)
    need(reply.response.get("x-new") and not reply.response.get("x-old"), "the head was not replaced")


@check("MUST")
def exc_info_after_headers(client):
    """start_response with exc_info after the head raises that exception, and the response is cut short."""
    reply = client.call("exc_after")
    raised = client.events(reply, "reraised")
    need(raised and raised[0]["same"], "the exception was not raised again")
    cut(reply)


@check("MUST")
def start_twice(client):
    reply = client.call("start_twice")
    need(client.events(reply, "raised"), "a second start_response without exc_info was accepted")


@check("MUST")
def header_order_dups(client):
    reply = good(client.call("h_cookies"))
    need(reply.response.get("set-cookie") == ["a=1", "b=2", "c=3"], reply.response.get("set-cookie"))


@check("MUST")
def header_latin1(client):
    reply = good(client.call("h_latin"))
    need(b"x-a: \xe9\xff\r\n" in reply.received.lower(), "the bytes are others")


@check("SHOULD")
def header_date_server_once(client):
    reply = good(client.call("h_date_server"))
    need(len(reply.response.get("date")) == 1 and len(reply.response.get("server")) <= 1, "a field comes twice")


@check("MUST", "RFC9112 4")
def status_custom(client):
    reply = good(client.call("s_custom"), status=299)
    need(b"299 My Own Reason" in reply.received, "the reason is lost")


def check_injection(name):
    @check("SHOULD", name=name)
    def harmless(client):
        reply = came(client.call(name))
        need(b"\nx-injected" not in reply.received.lower(), "a field was injected")
        client.alive()


def check_type(name):
    @check("SHOULD", name=name)
    def refused(client):
        client.is_500(client.call(name))


for _name in ("h_crlf_value", "h_crlf_name", "h_crlf_status"):
    check_injection(_name)
for _name in ("h_bytes_value", "h_int_value", "h_bytes_status"):
    check_type(_name)


@check("MUST", "RFC9112 6")
def hop_te(client):
    """The application's own Transfer-Encoding: an error, or at least valid framing."""
    reply = came(client.call("hop_te"))
    if reply.status != 500:
        good(reply)
    client.alive()


@check("SHOULD")
def cl_short(client):
    """No more than Content-Length is sent, and the connection stays in step."""
    reply = came(client.call("cl_short"))
    if reply.status == 500:
        return
    need(reply.body == b"ab" and reply.kept is not False, f"body {reply.body!r}, kept {reply.kept}")
    need(reply.received.endswith(b"\r\n\r\nab") or reply.closed, "too many bytes were sent")


@check("MUST", "RFC9112 8")
def cl_long(client):
    """Less than Content-Length: the connection must be closed."""
    reply = came(client.call("cl_long"))
    need(reply.status == 500 or reply.closed, "the connection stayed open")
    client.alive()


@check("MUST", "RFC9110 15.3.5")
def body_204(client):
    reply = came(client.call("body_204"))
    need(reply.status in (204, 500) and reply.surplus <= 0 and b"abc" not in reply.received, "a body in a 204")
    need(reply.kept in (True, None), "the connection is out of step")


@check("MUST", "RFC9110 9.3.2")
def head_body(client):
    reply = client.call("head_body", method="HEAD")
    behind = reply.received.partition(b"\r\n\r\n")[2]
    need(reply.status == 200 and not behind.startswith(b"abc"), "a body in the response to HEAD")
    need(reply.kept in (True, None), "the connection is out of step")
    need(reply.response.get("content-length") == ["3"], "Content-Length is lost")
