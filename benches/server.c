/* The small server: an epoll loop that answers each request with the same bytes, as cheaply as a server can, so that what is
 * measured is the client. Understands pipelining: as many answers in one write as there were whole requests in one read.
 *
 *     server plain|remember|delay[:MS]|hang [UNIX_SOCKET]
 *
 * plain: 200 and no word about reuse; remember: to be remembered for ten hours; delay: plain, after 50 ms or MS, in which
 * nothing else is served, and then all that has come by then; hang: never answers. Prints the port on loopback, and for each line on its standard input what it has
 * counted since the last one: requests, bytes of requests, connections. Ends when its standard input does, so that it never
 * outlives the harness. */
#define _GNU_SOURCE
#include "measure.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { MOST_DESCRIPTORS = 65536, READ_SIZE = 65536, MOST_ANSWERS = 1024, IN_ONE_TURN = 256 };

static const char PLAIN[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static const char REMEMBER[] = "HTTP/1.1 200 OK\r\nX-AuthDuration: 36000\r\nContent-Length: 0\r\n\r\n";

/* How much of the end of a request, CR LF CR LF, a connection's last read ended with. */
static unsigned char matched[MOST_DESCRIPTORS];

static int epoll, tcp, local = -1;
static unsigned long requests, bytes, connections;

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    need(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "server: epoll_ctl");
}

static int listen_at(int family, const struct sockaddr *address, socklen_t size) {
    int listener = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    need(listener >= 0 && bind(listener, address, size) == 0 && listen(listener, 4096) == 0, "server: cannot listen");
    watch(listener);
    return listener;
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        need(fd < MOST_DESCRIPTORS, "server: too many connections");
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        matched[fd] = 0;
        connections++;
        watch(fd);
    }
}

/* Requests whose end is in these bytes. Bodies are not understood: there are none. */
static unsigned count_ends(unsigned char *state, const char *at, size_t length) {
    unsigned found = 0;
    const char *end = at + length;
    if (*state == 0 && length >= 4 && memcmp(end - 4, "\r\n\r\n", 4) == 0) {
        while (at < end) {
            at = (const char *)memmem(at, (size_t)(end - at), "\r\n\r\n", 4) + 4;
            found++;
        }
        return found;
    }
    for (; at < end; at++) {
        char wanted = *state % 2 ? '\n' : '\r';
        *state = *at == wanted ? *state + 1 : *at == '\r';
        if (*state == 4) {
            *state = 0;
            found++;
        }
    }
    return found;
}

int main(int argc, char **argv) {
    need(argc >= 2, "usage: server plain|remember|delay[:MS]|hang [UNIX_SOCKET]");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int hang = strcmp(argv[1], "hang") == 0, delay = strncmp(argv[1], "delay", 5) == 0;
    unsigned delay_us = argv[1][5 * delay] == ':' ? (unsigned)atoi(argv[1] + 6) * 1000 : 50000;
    const char *answer = strcmp(argv[1], "remember") == 0 ? REMEMBER : PLAIN;
    size_t answer_size = strlen(answer);
    static char answers[MOST_ANSWERS * sizeof REMEMBER], input[READ_SIZE];
    for (size_t i = 0; i < MOST_ANSWERS; i++) {
        memcpy(answers + i * answer_size, answer, answer_size);
    }

    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    tcp = listen_at(AF_INET, (struct sockaddr *)&address, size);
    need(getsockname(tcp, (struct sockaddr *)&address, &size) == 0, "server: getsockname");
    if (argc > 2) {
        struct sockaddr_un path = {.sun_family = AF_UNIX};
        need(strlen(argv[2]) < sizeof path.sun_path, "server: path of the socket too long");
        strcpy(path.sun_path, argv[2]);
        local = listen_at(AF_UNIX, (struct sockaddr *)&path, sizeof path);
    }
    watch(STDIN_FILENO);
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct epoll_event ready[IN_ONE_TURN];
        int count = epoll_wait(epoll, ready, IN_ONE_TURN, -1);
        if (delay && count > 0 && ready[0].data.fd != tcp && ready[0].data.fd != local && ready[0].data.fd != STDIN_FILENO) {
            usleep(delay_us);
        }
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == tcp || fd == local) {
                accept_all(fd);
                continue;
            }
            ssize_t got = read(fd, input, sizeof input);
            if (fd == STDIN_FILENO) {
                if (got <= 0) {
                    return 0;
                }
                printf("%lu %lu %lu\n", requests, bytes, connections);
                fflush(stdout);
                requests = bytes = connections = 0;
                continue;
            }
            if (got <= 0) {
                if (got == 0 || errno != EAGAIN) {
                    close(fd);
                }
                continue;
            }
            unsigned whole = count_ends(&matched[fd], input, (size_t)got);
            requests += whole;
            bytes += (size_t)got;
            if (hang || whole == 0) {
                continue;
            }
            need(whole <= MOST_ANSWERS, "server: too many requests in one read");
            size_t wanted = whole * answer_size;
            if (write(fd, answers, wanted) != (ssize_t)wanted) {
                close(fd); /* who does not read its answers loses the connection */
            }
        }
    }
}
