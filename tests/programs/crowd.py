"""Runs thousands of clients in one separate process, for test_scale.py.

    crowd.py idle PORT COUNT                   one request each, then nothing
    crowd.py slow PORT HEADS BODIES READERS    drip a head, drip a body, read 1 MiB slowly

Prints a JSON line when all are attached, then one for each line on standard input: `stat`, or `ask N` (client N of an
idle crowd sends another request; prints the time to its response). The clients use many addresses of the loopback
network, because one address has too few ports.
"""

import json
import os
import resource
import select
import socket
import sys
import time

ATTACH_SECONDS = 60
TICKS = 20          # The slow clients act this many times per second.
READ_BYTES = 4096   # The bytes that a slow reader takes per second.
HELLO = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: idle\r\nAccept: */*\r\n\r\n"
BIND_ADDRESS_NO_PORT = 24


def connect(port, number, receive_buffer=None):
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.bind((f"127.0.0.{10 + number % 20}", 0))
    sock.connect_ex(("127.0.0.1", port))
    return sock


def say(**what):
    print(json.dumps(what), flush=True)


def attach_idle(port, count):
    """Opens connections, at most 128 at the same time. Returns those with a response, in order."""
    poll, waiting, attached, made = select.epoll(), {}, [], 0
    end = time.monotonic() + ATTACH_SECONDS
    while (made < count or waiting) and time.monotonic() < end:
        while made < count and len(waiting) < 128:
            sock = connect(port, made)
            waiting[sock.fileno()] = [sock, b""]
            poll.register(sock, select.EPOLLOUT)
            made += 1
        for fd, event in poll.poll(0.2):
            entry = waiting[fd]
            try:
                if event & select.EPOLLOUT:
                    entry[0].send(HELLO)
                    poll.modify(fd, select.EPOLLIN)
                    continue
                piece = entry[0].recv(65536)
            except OSError:
                piece = b""
            entry[1] += piece
            if not piece or entry[1].endswith(b"Hello, World!\n"):
                poll.unregister(fd)
                del waiting[fd]
                if piece:
                    attached.append(entry[0])
                else:
                    entry[0].close()
    return attached


def is_open(sock):
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def idle(port, count):
    clients = attach_idle(port, count)
    say(attached=len(clients))
    for line in sys.stdin:
        if line.startswith("ask"):
            sock, answer, start = clients[int(line.split()[1])], b"", time.monotonic()
            sock.setblocking(True)
            sock.settimeout(20)
            sock.sendall(HELLO)
            while not answer.endswith(b"Hello, World!\n"):
                piece = sock.recv(65536)
                if not piece:
                    break
                answer += piece
            say(answered=answer.startswith(b"HTTP/1.1 200"), seconds=time.monotonic() - start)
            sock.setblocking(False)
        else:
            say(alive=sum(map(is_open, clients)))


def slow(port, heads, bodies, readers):
    counts = {"head": heads, "body": bodies, "reader": readers}
    clients = []
    for kind, count in counts.items():
        for _ in range(count):
            clients.append([kind, connect(port, len(clients), 4096 if kind == "reader" else None), 0])
            if len(clients) % 64 == 0:
                time.sleep(0.02)        # The listen queue has a limit.
    first = {
        "head": b"G",
        "body": b"POST /sha HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
        "reader": b"GET /whole?n=1048576 HTTP/1.1\r\nHost: a\r\n\r\n",
    }
    attached = 0
    for entry in clients:
        poll = select.poll()        # select(2) accepts no descriptor above 1023.
        poll.register(entry[1], select.POLLOUT)
        poll.poll(10_000)
        try:
            attached += entry[1].send(first[entry[0]]) > 0
        except OSError:
            entry[1].close()
            entry[1] = None
    say(attached=attached)
    head = b"ET /x HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 4096
    os.set_blocking(0, False)
    tick, due = 0, time.monotonic()
    while True:
        for entry in clients[tick % TICKS::TICKS]:
            kind, sock, position = entry
            if sock is None:
                continue
            try:
                if kind == "reader":
                    piece = sock.recv(READ_BYTES)
                    entry[2] += len(piece)
                    if piece:
                        continue
                else:
                    sock.send(head[position:position + 1] if kind == "head" else b"x")
                    entry[2] += 1
                    if sock.recv(1, socket.MSG_PEEK):
                        pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            sock.close()
            entry[1] = None
        tick += 1
        due += 1 / TICKS
        if select.select([0], [], [], max(0, due - time.monotonic()))[0]:
            if not os.read(0, 4096):
                return
            say(**{kind: sum(1 for entry in clients if entry[0] == kind and entry[1] is not None) for kind in counts},
                read=sum(entry[2] for entry in clients if entry[0] == "reader"))


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    {"idle": idle, "slow": slow}[sys.argv[1]](*map(int, sys.argv[2:]))
