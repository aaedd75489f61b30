/*
 * live_stream: a server of streams that never end (MPEG-TS over HTTP) on one thread, that watches who may see them.
 *
 *     live_stream PORT [KEY=VALUE]...    e.g.  live_stream 8080 backend.url=http://127.0.0.1:6000/auth
 *
 * Every channel, /NAME.ts, is an endless stream of empty packets, one each 100 ms. A connection lives for hours, so one
 * decision at its start is not enough: each opens a watch. The library asks the backend again when the time of a
 * decision ends, and tells the change: the client that was allowed and now is not is cut off. A revocation, which a
 * real server would take from its billing, is told in the same way, at once. None of this needs a timer here.
 *
 * One thread runs the loop: clients, the queue's descriptor, the listener and a timer in one epoll, level triggered. A
 * client's life is READING, ASKING, STREAMING. The watch is cancelled when its client leaves, in whatever state.
 *
 * user_data is a client's slot, and slots live as long as the program. So what was reaped for a client that has left
 * needs no bookkeeping: its ticket is not the one that the slot has now, and tickets are never used twice.
 *
 * A client that there is no descriptor for waits for a second at most, with the listener out of the epoll, and so that the
 * library never lacks one, no more clients are taken than leave it its share.
 *
 * What it leaves out: TLS, a real source, more than one thread (one queue and one loop for each; the engine is shared).
 * Port 0 takes any free one. SIGTERM and SIGINT end it.
 */
#define _GNU_SOURCE
#include <alta_auth.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { CLIENTS = 4096, HEAD = 8192, EVENTS = 64, ID_LENGTH = 32, PACKET = 188 };
enum { TICK_MS = 100, TICKS_A_SECOND = 1000 / TICK_MS };
enum { PATIENCE = 15 * TICKS_A_SECOND }; /* with a client that neither asks nor takes anything */

enum state { FREE, READING, ASKING, STREAMING };

struct client {
    enum state state;
    int fd;
    char ip[INET_ADDRSTRLEN];
    char session[ID_LENGTH + 1]; /* made here, one a connection, never taken from the client */
    uint64_t ticket;             /* of its watch; 0: it has none */
    uint64_t last_seen;          /* the tick at which it last asked or took something */

    char head[HEAD];
    size_t head_length;
    const char *path, *query, *user_agent; /* in `head`, each NUL-terminated; kept to be asked about again */
    size_t sent;                           /* of the packet that it is being sent */
};

struct server {
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    int epoll, listener, timer;
    uint64_t tick;
    int waits; /* until there is a descriptor for the next client */
    size_t room;
    char origin[64];
    struct client clients[CLIENTS];
};

static struct server server;
static volatile sig_atomic_t ending;

/* ---- clients ---- */

static void leave(struct client *client) {
    if (client->ticket != 0) {
        alta_auth_cancel(server.engine, client->ticket); /* NOT_FOUND: its last was just reaped; see decided() */
    }
    close(client->fd);
    client->fd = -1;
    client->ticket = 0;
    client->state = FREE;
}

/*
 * For how many clients there are descriptors. Each has a socket, and as many again stay for the library, which needs
 * one for each connection to the backend. Whoever comes on top is turned away at once.
 */
static size_t room_for_clients(void) {
    const rlim_t wanted = 2 * CLIENTS;
    struct rlimit files = {wanted, wanted};
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < wanted) {
        struct rlimit more = {files.rlim_max < wanted ? files.rlim_max : wanted, files.rlim_max};
        files = setrlimit(RLIMIT_NOFILE, &more) == 0 ? more : files;
    }
    if (files.rlim_cur >= wanted) {
        return CLIENTS;
    }
    size_t room = (size_t)files.rlim_cur / 2;
    fprintf(stderr, "room for %zu clients, of %d: too few descriptors\n", room, (int)CLIENTS);
    return room;
}

/* Level triggered: a listener whose clients cannot be accepted now would be told of again at once, and again. */
static void listen_for(uint32_t events) {
    struct epoll_event event = {.events = events, .data = {.ptr = &server.listener}};
    epoll_ctl(server.epoll, EPOLL_CTL_MOD, server.listener, &event);
}

static void accept_clients(void) {
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    int fd;
    while ((fd = accept4(server.listener, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct client *client = NULL;
        unsigned char random[ID_LENGTH / 2];
        for (size_t i = 0; i < server.room && client == NULL; i++) {
            client = server.clients[i].state == FREE ? &server.clients[i] : NULL;
        }
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data = {.ptr = client}};
        if (client == NULL || getrandom(random, sizeof random, 0) != (ssize_t)sizeof random ||
            epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
            close(fd);
            continue;
        }
        for (size_t i = 0; i < sizeof random; i++) {
            snprintf(client->session + 2 * i, 3, "%02x", (unsigned)random[i]);
        }
        client->state = READING;
        client->fd = fd;
        client->head_length = 0;
        client->last_seen = server.tick;
        inet_ntop(AF_INET, &peer.sin_addr, client->ip, sizeof client->ip);
    }
    if (errno == EMFILE || errno == ENFILE) {
        listen_for(0);
        server.waits = 1;
    }
}

/* A connection that has got nothing yet always has room for a head. */
static int send_head(struct client *client, const char *status) {
    char head[160];
    int length = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
                          status);
    return send(client->fd, head, (size_t)length, MSG_NOSIGNAL) == length;
}

static void refuse(struct client *client, const char *status) {
    if (client->state != STREAMING) { /* in the middle of a stream there is nothing to say but the end */
        send_head(client, status);
    }
    leave(client);
}

/* ---- the stream ---- */

static void stream(struct client *client) {
    if (client->state == STREAMING) {
        return; /* it was allowed before: another user or limit, of no interest here */
    }
    if (!send_head(client, "200 OK\r\nContent-Type: video/mp2t")) {
        leave(client);
        return;
    }
    client->state = STREAMING;
    client->sent = 0;
    client->last_seen = server.tick;
}

/* What a client has no room for it misses, but in whole packets. */
static void send_packet(struct client *client) {
    /* A null packet: PID 0x1FFF, payload only. */
    static const unsigned char packet[PACKET] = {0x47, 0x1f, 0xff, 0x10};
    ssize_t sent = send(client->fd, packet + client->sent, PACKET - client->sent, MSG_NOSIGNAL);
    if (sent > 0) {
        client->sent = (client->sent + (size_t)sent) % PACKET;
        client->last_seen = server.tick;
    } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        leave(client);
    }
}

/* ---- asking ---- */

static void decided(struct client *client, const alta_auth_decision *decision) {
    if (decision->ticket != client->ticket) {
        return; /* of a client that has left */
    }
    if ((decision->flags & ALTA_AUTH_LAST) != 0) {
        client->ticket = 0; /* ended: there is nothing left to cancel */
    }
    if (decision->verdict == ALTA_AUTH_ALLOW) {
        stream(client);
    } else {
        refuse(client, "403 Forbidden");
    }
}

/* Opens the watch. The texts live until the call returns, which is as long as the library needs them. */
static void ask(struct client *client) {
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    request.session_id = alta_auth_str_of(client->session);
    request.ip = alta_auth_str_of(client->ip);
    request.path = alta_auth_str_of(client->path);
    request.query = alta_auth_str_of(client->query);
    request.origin = alta_auth_str_of(server.origin);
    request.user_agent = alta_auth_str_of(client->user_agent);

    switch (alta_auth_queue_watch(server.queue, &request, client, &client->ticket)) {
    case ALTA_AUTH_OK:
        return;
    case ALTA_AUTH_ERR_FULL:
    case ALTA_AUTH_ERR_CLOSED:
    case ALTA_AUTH_ERR_SYSTEM:
        if (alta_auth_default_action(server.engine) == ALTA_AUTH_ALLOW) {
            stream(client); /* without a watch, until there is room for one: see tick() */
        } else {
            refuse(client, "403 Forbidden");
        }
        return;
    default: /* ERR_INVALID: what it sent cannot be asked. Defects refuse as well. */
        refuse(client, "403 Forbidden");
    }
}

/* ---- reading ---- */

/*
 * A channel's name has only bytes that no program reads in two ways: there is nothing to decode, and the path that is
 * asked for is the path that is served.
 */
static int is_channel(const char *path) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t name = path[0] == '/' ? strspn(path + 1, plain) : 0;
    return name > 0 && strcmp(path + 1 + name, ".ts") == 0;
}

/* Takes the head apart, which is complete and NUL-terminated. */
static void request(struct client *client) {
    struct epoll_event only_leaving = {.events = EPOLLRDHUP, .data = {.ptr = client}};
    char *agent = strcasestr(client->head, "\r\nUser-Agent:");
    if (agent != NULL) {
        agent += strlen("\r\nUser-Agent:");
        agent += strspn(agent, " \t");
        agent[strcspn(agent, "\r\n")] = '\0';
    }
    client->head[strcspn(client->head, "\r")] = '\0';
    char *target = strchr(client->head, ' ');
    char *version = target != NULL ? strchr(target + 1, ' ') : NULL;
    if (version == NULL || strncmp(client->head, "GET ", 4) != 0 || strncmp(version, " HTTP/1.", 8) != 0) {
        refuse(client, "400 Bad Request");
        return;
    }
    target++;
    *version = '\0';
    size_t path_length = strcspn(target, "?");
    client->query = target + path_length + (target[path_length] == '?');
    target[path_length] = '\0';
    client->path = target;
    client->user_agent = agent != NULL ? agent : "";
    if (!is_channel(client->path)) {
        refuse(client, "404 Not Found");
        return;
    }
    client->state = ASKING;
    epoll_ctl(server.epoll, EPOLL_CTL_MOD, client->fd, &only_leaving);
    ask(client);
}

static void readable(struct client *client) {
    ssize_t got = recv(client->fd, client->head + client->head_length, HEAD - 1 - client->head_length, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            leave(client);
        }
        return;
    }
    client->head_length += (size_t)got;
    client->head[client->head_length] = '\0';
    char *end = strstr(client->head, "\r\n\r\n");
    if (end != NULL) {
        end[2] = '\0';
        request(client);
    } else if (client->head_length == HEAD - 1 || strlen(client->head) != client->head_length) {
        refuse(client, "400 Bad Request");
    }
}

/* ---- the loop ---- */

static void reap(void) {
    alta_auth_completion done[EVENTS] = {ALTA_AUTH_COMPLETION_INIT};
    size_t count;
    while ((count = alta_auth_queue_reap(server.queue, done, EVENTS)) > 0) {
        for (size_t i = 0; i < count; i++) {
            decided(done[i].user_data, &done[i].decision);
        }
    }
}

static void tick(void) {
    uint64_t ticks = 0;
    if (read(server.timer, &ticks, sizeof ticks) != (ssize_t)sizeof ticks) {
        return;
    }
    server.tick++; /* by one, also where some were missed: a loop that was late is no fault of its clients */
    for (size_t i = 0; i < CLIENTS; i++) {
        struct client *client = &server.clients[i];
        if (client->state == STREAMING) {
            send_packet(client);
        }
        if (client->state == STREAMING && client->ticket == 0 && server.tick % TICKS_A_SECOND == 0) {
            ask(client);
        }
        /* A client that is ASKING waits for the library, whose `timeout` is the deadline. */
        if ((client->state == READING || client->state == STREAMING) && server.tick - client->last_seen > PATIENCE) {
            leave(client);
        }
    }
    if (server.waits && server.tick % TICKS_A_SECOND == 0) {
        server.waits = 0;
        listen_for(EPOLLIN);
    }
}

static void run(void) {
    struct epoll_event events[EVENTS];
    while (!ending) {
        int accepts = 0;
        int count = epoll_wait(server.epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            void *what = events[i].data.ptr;
            if (what == &server.listener) {
                accepts = 1; /* last: a slot that is freed by one event is not taken again before all are seen */
            } else if (what == &server.queue) {
                reap();
            } else if (what == &server.timer) {
                tick();
            } else if (((struct client *)what)->state == FREE) {
                continue; /* cut off by an event before this one */
            } else if ((events[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0) {
                leave(what);
            } else if (((struct client *)what)->state == READING) {
                readable(what);
            }
        }
        if (accepts) {
            accept_clients();
        }
    }
}

static int add(int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = what}};
    return fd >= 0 && epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static int listen_on(const char *port) {
    unsigned number = 0;
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    const int on = 1;
    if (sscanf(port, "%u", &number) != 1 || number > 65535) {
        fprintf(stderr, "%s: not a port\n", port);
        return 0;
    }
    address.sin_port = htons((uint16_t)number);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (server.listener < 0 || setsockopt(server.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(server.listener, (struct sockaddr *)&address, length) != 0 || listen(server.listener, 128) != 0 ||
        getsockname(server.listener, (struct sockaddr *)&address, &length) != 0 ||
        !add(server.listener, &server.listener)) {
        perror("listen");
        return 0;
    }
    snprintf(server.origin, sizeof server.origin, "http://127.0.0.1:%u", (unsigned)ntohs(address.sin_port));
    printf("listening on %s\n", server.origin);
    fflush(stdout);
    return 1;
}

/* Outages, doubtful settings and the like: what an operator has to know. Called on any thread of the library. */
static void say(void *user_data, int32_t level, alta_auth_str message) {
    (void)user_data;
    (void)level;
    fprintf(stderr, "%.*s\n", (int)message.len, message.ptr);
}

static alta_auth_engine *start(int count, char **settings) {
    char error[256] = "out of memory";
    alta_auth_engine *engine = NULL;
    alta_auth_config *config = alta_auth_config_new();
    alta_auth_config_set_log(config, say, NULL);
    int32_t status = alta_auth_config_set(config, "default_action", "deny", error, sizeof error);
    for (int i = 0; i < count && status == ALTA_AUTH_OK; i++) {
        char *value = strchr(settings[i], '=');
        if (value == NULL) {
            fprintf(stderr, "setting %d: expected KEY=VALUE\n", i + 1); /* not what it says: it may be a secret */
            alta_auth_config_free(config);
            return NULL;
        }
        *value++ = '\0';
        status = alta_auth_config_set(config, settings[i], value, error, sizeof error);
    }
    if (status == ALTA_AUTH_OK) {
        status = alta_auth_engine_new(config, &engine, error, sizeof error);
    }
    if (status != ALTA_AUTH_OK) {
        fprintf(stderr, "%s: %s\n", alta_auth_status_name(status), error);
        alta_auth_config_free(config);
    }
    return engine;
}

static void end(int signal) {
    (void)signal;
    ending = 1;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: live_stream PORT [KEY=VALUE]...\n");
        return 64;
    }
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    const struct itimerspec each = {{0, TICK_MS * 1000000L}, {0, TICK_MS * 1000000L}};
    server.room = room_for_clients();
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    server.engine = start(argc - 2, argv + 2);
    if (server.engine == NULL) {
        return 78;
    }
    int started = 0;
    int32_t status = alta_auth_queue_new(server.engine, &server.queue);
    if (status != ALTA_AUTH_OK) {
        fprintf(stderr, "cannot start: %s\n", alta_auth_status_name(status));
        alta_auth_engine_free(server.engine);
        return 71;
    }
    if (!add(alta_auth_queue_fd(server.queue), &server.queue) || !add(server.timer, &server.timer) ||
        timerfd_settime(server.timer, 0, &each, NULL) != 0) {
        perror("epoll, timer");
    } else if (listen_on(argv[1])) {
        started = 1;
    }
    if (!started) {
        alta_auth_queue_free(server.queue);
        alta_auth_engine_free(server.engine);
        return 71;
    }
    run();
    alta_auth_queue_free(server.queue); /* and its watches; the connections end with the program */
    alta_auth_engine_free(server.engine);
    return 0;
}
