/* Model server for benchmarks: answers every request at once with one fixed JSON body. One thread, epoll.
   Knows just enough HTTP to find the end of a request (Content-Length bodies). cc -O2 -o backend backend.c */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES 16384
static const char ANSWER[] = "HTTP/1.1 200 OK\r\nServer: model\r\nContent-Type: application/json\r\nContent-Length: 43\r\n"
                             "\r\n{\"predictions\": [[0.1234, 0.8766]], \"v\": 1}";
struct connection { int fd; int used; long skip; char data[HEAD_BYTES]; };

static int handle(struct connection *c) {
    static char sink[1 << 18];
    for (;;) {
        long n;
        if (c->skip > 0) { /* the rest of a long body */
            n = read(c->fd, sink, c->skip < (long)sizeof sink ? c->skip : (long)sizeof sink);
            if (n <= 0) return n < 0 ? 0 : -1;
            c->skip -= n;
            if (c->skip == 0 && write(c->fd, ANSWER, sizeof ANSWER - 1) < 0) return -1;
            continue;
        }
        n = read(c->fd, c->data + c->used, HEAD_BYTES - 1 - c->used);
        if (n <= 0) return n < 0 ? 0 : -1;
        c->used += n;
        for (;;) {
            c->data[c->used] = 0;
            char *end = memmem(c->data, c->used, "\r\n\r\n", 4);
            if (!end) break;
            char *field = strcasestr(c->data, "\r\ncontent-length:");
            long length = field && field < end ? atol(field + 17) : 0;
            long total = end + 4 - c->data + length;
            if (total > c->used) {
                if (total < HEAD_BYTES - 1) break;
                c->skip = total - c->used;
                c->used = 0;
                break;
            }
            if (write(c->fd, ANSWER, sizeof ANSWER - 1) < 0) return -1;
            memmove(c->data, c->data + total, c->used - total);
            c->used -= total;
        }
    }
}

int main(int argc, char **argv) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) return perror("bind"), 1;
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                event.data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
            } else if (handle(c) < 0) {
                close(c->fd);
                free(c);
            }
        }
    }
}
