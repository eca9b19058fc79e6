// The floor of what a server costs: one thread, epoll, keep-alive, a fixed response.
//     cc -O2 -o epoll_server epoll_server.c && ./epoll_server PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
static const char R[] = "HTTP/1.1 200 OK\r\nServer: epoll\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
int main(int c, char **v) {
  int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, ep = epoll_create1(0);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(v[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("bind"); return 1; }
  struct epoll_event e = {.events = EPOLLIN, .data.fd = l}, evs[512];
  epoll_ctl(ep, EPOLL_CTL_ADD, l, &e);
  static char b[65536];
  for (;;) {
    int n = epoll_wait(ep, evs, 512, -1);
    for (int i = 0; i < n; i++) {
      int fd = evs[i].data.fd;
      if (fd == l) {
        int s;
        while ((s = accept4(l, 0, 0, SOCK_NONBLOCK)) >= 0) {
          setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          e.events = EPOLLIN | EPOLLRDHUP; e.data.fd = s;
          epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
        }
        continue;
      }
      ssize_t r = recv(fd, b, sizeof b, 0);
      if (r <= 0) { if (r < 0 && errno == EAGAIN) continue; close(fd); continue; }
      int k = 0;                                  // answers = blank lines seen (requests split over reads are not handled)
      for (char *p = b; (p = memmem(p, b + r - p, "\r\n\r\n", 4)); p += 4) k++;
      while (k--) if (send(fd, R, sizeof R - 1, MSG_NOSIGNAL) < 0) { close(fd); break; }
    }
  }
}
