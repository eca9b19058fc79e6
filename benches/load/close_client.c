/* Opens a new connection for each request, to a TCP port of 127.0.0.1 or to a unix socket.

       close_client PORT|PATH CLIENTS SECONDS

   CLIENTS connections are open at a time: each sends one request, reads until the server closes, and is opened anew. Prints a
   line of JSON: connections per second, the time of a connection from connect(2) to its end in microseconds, and the age of the
   oldest connection that has not ended. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client.h"

enum { CLIENTS_MAX = 20000, TIMES_MAX = 1 << 22 };

static const char REQUEST[] = "GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
static union { struct sockaddr any; struct sockaddr_in tcp; struct sockaddr_un unix_; } address;
static socklen_t address_size;
static int epoll;
/* For each descriptor: when its connection began, and whether its request is sent and answered. */
static double began[CLIENTS_MAX + 64];
static char sent[CLIENTS_MAX + 64], answered[CLIENTS_MAX + 64], is_open[CLIENTS_MAX + 64];
static float times[TIMES_MAX];
static long done, errors;

static void open_client(void) {
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || fd >= CLIENTS_MAX + 64)
        fail("socket");
    began[fd] = now();
    sent[fd] = answered[fd] = 0;
    is_open[fd] = 1;
    /* A unix socket refuses a client while its queue is full. */
    while (connect(fd, &address.any, address_size) && errno != EINPROGRESS) {
        if (errno != EAGAIN)
            fail("connect");
        usleep(100);
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static void end_client(int fd, int failed) {
    if (failed)
        errors++;
    else if (done < TIMES_MAX)
        times[done++] = now() - began[fd];
    is_open[fd] = 0;
    if (close(fd))
        fail("close");
}

/* Goes on with a connection. Returns whether it has ended. */
static int go_on(int fd) {
    char buffer[4096];
    if (!sent[fd]) {
        if (send(fd, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) != sizeof REQUEST - 1) {
            if (errno == EAGAIN)
                return 0;
            end_client(fd, 1);
            return 1;
        }
        sent[fd] = 1;
    }
    for (;;) {
        ssize_t bytes = recv(fd, buffer, sizeof buffer, 0);
        if (bytes < 0 && errno == EAGAIN)
            return 0;
        if (bytes <= 0) {
            end_client(fd, bytes < 0 || !answered[fd]);
            return 1;
        }
        answered[fd] |= bytes > 12 && !memcmp(buffer, "HTTP/1.1 200", 12);
    }
}

int main(int argc, char **argv) {
    int clients = argc == 4 ? atoi(argv[2]) : 0;
    double seconds = argc == 4 ? atof(argv[3]) : 0;
    if (clients < 1 || clients > CLIENTS_MAX || seconds <= 0) {
        fprintf(stderr, "usage: close_client PORT|PATH CLIENTS SECONDS\n");
        return 2;
    }
    if (strchr(argv[1], '/')) {
        address.unix_.sun_family = AF_UNIX;
        snprintf(address.unix_.sun_path, sizeof address.unix_.sun_path, "%s", argv[1]);
        address_size = sizeof address.unix_;
    } else {
        address.tcp.sin_family = AF_INET;
        address.tcp.sin_port = htons(atoi(argv[1]));
        address.tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address_size = sizeof address.tcp;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    double start = now(), end = start + seconds * 1e6;
    for (int i = 0; i < clients; i++)
        open_client();
    struct epoll_event events[256];
    while (now() < end) {
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < ready; i++)
            if (go_on(events[i].data.fd))
                open_client();
    }
    double took = (now() - start) / 1e6, oldest = 0;
    for (int fd = 0; fd < CLIENTS_MAX + 64; fd++)
        if (is_open[fd] && now() - began[fd] > oldest)
            oldest = now() - began[fd];
    qsort(times, done, sizeof *times, compare);
    float none = 0, *of = done ? times : &none;
    printf("{\"rps\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"open_us\": %.1f, \"errors\": %ld}\n",
           done / took, of[done / 2], of[done * 99 / 100], of[done ? done - 1 : 0], oldest, errors);
    return 0;
}
