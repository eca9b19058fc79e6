"""Uses `wsgi.input` and `wsgi.errors` like libraries of Python. The path names a case; its result is sent as JSON."""

import contextlib
import csv
import email
import email.policy
import gzip
import hashlib
import io
import json
import logging
import shutil
import tarfile
import tempfile
import zipfile


def sha(data):
    return hashlib.sha256(data).hexdigest()


def everything(stream):
    """Returns the attributes of a buffered reader."""
    calls = {name: getattr(stream, name)() for name in ("readable", "writable", "seekable", "isatty")}
    return {**calls, "closed": stream.closed, "flush": stream.flush()}


def no_descriptor(stream):
    try:
        stream.fileno()
    except io.UnsupportedOperation as error:
        return isinstance(error, OSError)


def buffered(stream):
    reader = io.BufferedReader(stream)
    return [reader.peek(1)[:1].decode(), sha(reader.read())]


def unbuffered_piece_by_piece(stream):
    reader, digest, pieces = io.BufferedReader(stream, 4096), hashlib.sha256(), 0
    while piece := reader.read1(1000):
        digest.update(piece)
        pieces += 1
    return [pieces > 1, digest.hexdigest()]


def text(stream):
    wrapper = io.TextIOWrapper(stream, "utf-8")
    first = wrapper.readline()
    rest = wrapper.read()
    return [first, len(rest), wrapper.detach() is stream]


def text_dropped(stream):
    """A deleted wrapper closes the stream that it wraps."""
    wrapper = io.TextIOWrapper(stream, "latin-1")
    wrapper.close()
    del wrapper
    return [stream.closed, sha(stream.read())]


def with_statement(stream):
    with stream as inside, contextlib.closing(stream):
        first = inside.read(3)
    return [first.decode(), sha(first + stream.read())]


def readinto(stream):
    place, data = bytearray(1000), b""
    while size := stream.readinto(place):
        data += place[:size]
    return sha(data)


def readinto1(stream):
    place, data = memoryview(bytearray(1000))[10:900], b""
    while size := stream.readinto1(place):
        data += place[:size]
    return sha(data)


def readinto_wide(stream):
    import array

    place = array.array("I", [0] * 4)
    return [stream.readinto(place), bytes(place).decode()]


def read1(stream):
    data = b""
    while piece := stream.read1(100):
        assert len(piece) <= 100
        data += piece
    return [stream.read1(0).decode(), sha(data), stream.read1().decode()]


def mail(stream):
    message = email.message_from_binary_file(stream, policy=email.policy.default)
    return [message["Subject"], message.get_content()]


def zipped(stream):
    with zipfile.ZipFile(stream) as archive:
        return {name: sha(archive.read(name)) for name in archive.namelist()}


def tarred(stream):
    with tarfile.open(fileobj=stream, mode="r:*") as archive:
        return {member.name: sha(archive.extractfile(member).read()) for member in archive}


def tar_stream(stream):
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        return {member.name: sha(archive.extractfile(member).read()) for member in archive}


def gunzipped(stream):
    with gzip.GzipFile(fileobj=stream) as file:
        return sha(file.read())


def rows(stream):
    return list(csv.reader(io.TextIOWrapper(stream, "utf-8", newline="")))


def loaded(stream):
    return json.load(stream)


def copied(stream):
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        file.seek(0)
        return sha(file.read())


def fields(stream, environ):
    import cgi

    form = cgi.FieldStorage(fp=stream, environ=environ, keep_blank_values=True)
    return {name: form[name].value if isinstance(form[name].value, str) else sha(form[name].value) for name in form}


def werkzeug(stream, environ):
    from werkzeug.wrappers import Request

    request = Request(environ)
    return {**request.form, **{name: sha(file.read()) for name, file in request.files.items()}}


def django(stream, environ):
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    from django.core.handlers.wsgi import WSGIRequest

    request = WSGIRequest(environ)
    return {**request.POST.dict(), **{name: sha(file.read()) for name, file in request.FILES.items()}}


def webob(stream, environ):
    from webob import Request

    request = Request(environ)
    return {name: value if isinstance(value, str) else sha(value.file.read()) for name, value in request.POST.items()}


def seek(stream):
    size = stream.seek(0, io.SEEK_END)
    end = [stream.read().decode(), stream.readline().decode(), stream.tell() == size]
    stream.seek(0)
    whole = stream.read()
    back = [stream.seek(-3, io.SEEK_CUR) == size - 3, stream.readline() == whole[-3:]]
    stream.seek(5)
    line = stream.readline()
    middle = [stream.tell() == 5 + len(line), stream.read(4) == whole[5 + len(line):9 + len(line)]]
    beyond = [stream.seek(size + 10) == size + 10, stream.read().decode(), stream.read1().decode(), list(stream)]
    refused = []
    for arguments in [(-1,), (-size - 11, 1), (0, 3), (0, -1)]:
        try:
            stream.seek(*arguments)
        except ValueError:
            refused.append(arguments[0])
    stream.seek(0)
    return [size, sha(whole), end, back, middle, beyond, len(refused), sha(stream.read())]


def empty_seek(stream):
    before = stream.tell()
    stream.seek(10)
    return [before, stream.seek(0, io.SEEK_END), stream.read().decode()]


def refused_seek(stream):
    refused = []
    for call in (stream.tell, lambda: stream.seek(0), stream.fileno):
        try:
            call()
        except io.UnsupportedOperation as error:
            refused.append(isinstance(error, OSError))
    return refused + [len(stream.read())]


def errors(stream, environ):
    log = environ["wsgi.errors"]
    with log as inside:
        print("by print", file=inside)
    log.buffer.write(b"by bytes \xff\xc3\xa4\n")
    log.buffer.flush()
    log.writelines(["one ", "line\n"])
    handler = logging.StreamHandler(log)
    handler.handle(logging.makeLogRecord({"msg": "by logging", "levelno": 50}))
    with contextlib.redirect_stderr(log):
        import sys

        sys.stderr.write("redirected\n")
    log.close()
    log.write("after close\n")
    return [log.closed, log.isatty(), log.readable(), log.seekable(), log.writable(), log.encoding, no_descriptor(log)]


WITH_ENVIRON = {fields, werkzeug, django, webob, errors}


def application(environ, start_response):
    case = globals()[environ["PATH_INFO"][1:]]
    stream = environ["wsgi.input"]
    result = case(stream, environ) if case in WITH_ENVIRON else case(stream)
    body = json.dumps(result).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
