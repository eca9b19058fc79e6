/* Opens WebSockets to a port of 127.0.0.1, and sends messages through them that the server sends back.

       echo_client PORT PATH SOCKETS SECONDS BYTES

   Each socket sends a message of BYTES (at most 125), waits for its echo, and sends the next one. Prints a line of JSON: the sockets
   that opened within 5 s, the messages per second that came back, and the time from a message to its echo in microseconds. */

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"

enum { SOCKETS_MAX = 20000, TIMES_MAX = 1 << 23, OPEN_SECONDS = 5 };

static struct sockaddr_in address = {.sin_family = AF_INET};
static char request[512], message[131], echo[127];
static size_t request_size, message_size, echo_size;
static int epoll, opened, is_measuring;
/* For each descriptor: when its message was sent, the bytes that have come back, and whether the socket is open. */
static double began[SOCKETS_MAX + 64];
static size_t got[SOCKETS_MAX + 64];
static char is_open[SOCKETS_MAX + 64], head[SOCKETS_MAX + 64][1024];
static float times[TIMES_MAX];
static long done, errors;

static void send_message(int fd) {
    began[fd] = now();
    got[fd] = 0;
    if (send(fd, message, message_size, MSG_NOSIGNAL) != (ssize_t)message_size)
        errors++;
}

static void open_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || fd >= SOCKETS_MAX + 64)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    if (send(fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size)
        fail("send");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static void drop(int fd) {
    errors++;
    close(fd);
}

/* Reads the response to the handshake. */
static void receive_head(int fd) {
    ssize_t size = recv(fd, head[fd] + got[fd], sizeof head[fd] - 1 - got[fd], MSG_DONTWAIT);
    if (size <= 0)
        return drop(fd);
    got[fd] += size;
    if (!strstr(head[fd], "\r\n\r\n"))
        return;
    if (strncmp(head[fd], "HTTP/1.1 101", 12))
        return drop(fd);
    is_open[fd] = 1;
    opened++;
}

static void receive_echo(int fd) {
    char buffer[256];
    ssize_t size = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size <= 0)
        return drop(fd);
    /* A ping of the server comes after 30 s at the earliest, so all bytes are of the echo. */
    if (got[fd] + size > echo_size || memcmp(buffer, echo + got[fd], size)) {
        fprintf(stderr, "the server has sent something else\n");
        exit(1);
    }
    got[fd] += size;
    if (got[fd] < echo_size)
        return;
    if (done < TIMES_MAX)
        times[done] = now() - began[fd];
    done++;
    if (is_measuring)
        send_message(fd);
}

/* Handles events until the time is over, or all sockets are open. */
static void run(double until, int sockets) {
    struct epoll_event events[512];
    while (now() < until && opened + errors < sockets) {
        int ready = epoll_wait(epoll, events, 512, 10);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (is_open[fd])
                receive_echo(fd);
            else
                receive_head(fd);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "echo_client PORT PATH SOCKETS SECONDS BYTES\n");
        return 2;
    }
    int sockets = atoi(argv[3]), bytes = atoi(argv[5]);
    double seconds = atof(argv[4]);
    if (sockets < 1 || sockets > SOCKETS_MAX || bytes < 0 || bytes > 125) {
        fprintf(stderr, "there are 1 to %d sockets, and 0 to 125 bytes\n", SOCKETS_MAX);
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    address.sin_port = htons(atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    request_size = snprintf(request, sizeof request,
                            "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", argv[2]);
    /* A text, with a mask of zeros. */
    message[0] = echo[0] = (char)0x81;
    message[1] = (char)(0x80 | bytes);
    echo[1] = (char)bytes;
    memset(message + 6, 'x', bytes);
    memset(echo + 2, 'x', bytes);
    message_size = bytes + 6;
    echo_size = bytes + 2;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < sockets; i++)
        open_socket();
    run(now() + OPEN_SECONDS * 1e6, sockets);
    is_measuring = 1;
    double start = now();
    for (int fd = 0; fd < SOCKETS_MAX + 64; fd++)
        if (is_open[fd])
            send_message(fd);
    /* No further socket opens. */
    run(start + seconds * 1e6, SOCKETS_MAX + 1);
    double took = (now() - start) / 1e6;
    long counted = done < TIMES_MAX ? done : TIMES_MAX;
    qsort(times, counted, sizeof *times, compare);
    printf("{\"open\": %d, \"errors\": %ld, \"per_second\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"max_us\": %.0f}\n", opened, errors,
           done / took, counted ? times[counted / 2] : 0, counted ? times[counted * 99 / 100] : 0, counted ? times[counted - 1] : 0);
    return 0;
}
