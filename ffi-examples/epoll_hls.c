/*
 * epoll_hls: a small HLS file server on one thread, that asks before it serves.
 *
 *     epoll_hls ROOT PORT [KEY=VALUE]...    e.g.  epoll_hls /srv/hls 8080 backend.url=http://127.0.0.1:6000/auth
 *
 * It serves the files under ROOT; the first directory of a path is the channel: /news/index.m3u8, /news/720p/3.ts.
 *
 * Players append the token to the playlist's URL and drop it on segments. So the query that opened a session is
 * remembered and passed with each request of it, and every check names its channel as the scope: one question a
 * channel and session, for as long as the backend lets its answer be reused. The session's id is made here, sent as a
 * cookie, and never taken from a client unless this server made it for the same address.
 *
 * One thread runs the loop: clients, the queue's descriptor and the listener in one epoll, level triggered. A client's
 * life is READING, ASKING, SENDING, and READING again. A client that leaves while ASKING is cancelled. If cancel says
 * that the completion is on its way, the slot stays taken until it has come, because the completion points to it.
 *
 * A client that there is no descriptor for waits for a second, with the listener out of the epoll, and so that the library
 * never lacks one, no more clients are taken than leave it its share.
 *
 * What it leaves out: TLS, ranges, more than one thread (one queue and one loop for each; the engine is shared).
 * Port 0 takes any free one. SIGTERM and SIGINT end it.
 */
#define _GNU_SOURCE
#include <alta_auth.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 1024, SESSIONS = 8192, HEAD = 8192, PATH_MAX_LENGTH = 1024, QUERY_MAX = 2048, EVENTS = 64 };
enum { CLIENT_PATIENCE = 15, SESSION_IDLE = 600 }; /* seconds */
enum { ID_LENGTH = 32 };

enum state { FREE, READING, ASKING, SENDING, ORPHANED /* the client left, its completion has not come */ };

struct session {
    char id[ID_LENGTH + 1]; /* empty: free */
    char ip[INET_ADDRSTRLEN];
    char query[QUERY_MAX];
    time_t last_used;
};

struct client {
    enum state state;
    int fd;
    char ip[INET_ADDRSTRLEN];
    time_t deadline;

    char head[HEAD];
    size_t head_length;
    size_t request_length; /* of the request that is being answered; the next one may follow it in `head` */

    char path[PATH_MAX_LENGTH]; /* normalised: what is asked for is what is served */
    int head_only;
    int keep_alive;
    struct session opening; /* the session that the request belongs to, or would open */
    int opens;
    uint64_t ticket;

    char reply[4096];
    size_t reply_length, reply_sent;
    int file;
    off_t file_sent, file_length;
};

struct server {
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    int epoll, listener, root;
    time_t accepts_from; /* 0: it accepts */
    size_t room;
    char origin[64];
    struct client clients[CLIENTS];
    struct session sessions[SESSIONS];
};

/* Not on the stack, and as many as there will ever be: a flood is refused, it does not exhaust memory. */
static struct server server;
static volatile sig_atomic_t ending;

static time_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

/* ---- sessions ---- */

static struct session *find_session(const char *id, const char *ip) {
    time_t time = now();
    for (size_t i = 0; i < SESSIONS; i++) {
        struct session *session = &server.sessions[i];
        if (session->id[0] != '\0' && strcmp(session->id, id) == 0) {
            int lives = time - session->last_used < SESSION_IDLE && strcmp(session->ip, ip) == 0;
            return lives ? session : NULL;
        }
    }
    return NULL;
}

/* Called when the backend has allowed it, so that unpaid clients take no place. The one idle longest makes room. */
static void keep_session(const struct session *opened) {
    struct session *place = &server.sessions[0];
    for (size_t i = 0; i < SESSIONS; i++) {
        struct session *session = &server.sessions[i];
        if (session->id[0] == '\0') {
            place = session;
            break;
        }
        if (session->last_used < place->last_used) {
            place = session;
        }
    }
    if (place->id[0] != '\0') {
        alta_auth_revoke(server.engine, alta_auth_str_of(place->id));
    }
    *place = *opened;
    place->last_used = now();
}

static int new_session(struct session *session, const char *ip, const char *query) {
    unsigned char random[ID_LENGTH / 2];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random || strlen(query) >= sizeof session->query) {
        return 0;
    }
    for (size_t i = 0; i < sizeof random; i++) {
        snprintf(session->id + 2 * i, 3, "%02x", (unsigned)random[i]);
    }
    snprintf(session->ip, sizeof session->ip, "%s", ip);
    snprintf(session->query, sizeof session->query, "%s", query);
    return 1;
}

/* ---- clients ---- */

static void watch(struct client *client, uint32_t events) {
    struct epoll_event event = {.events = events, .data = {.ptr = client}};
    epoll_ctl(server.epoll, EPOLL_CTL_MOD, client->fd, &event);
}

static void close_file(struct client *client) {
    if (client->file >= 0) {
        close(client->file);
    }
    client->file = -1;
}

static void leave(struct client *client) {
    enum state next = FREE;
    if (client->state == ASKING && alta_auth_cancel(server.engine, client->ticket) != ALTA_AUTH_OK) {
        next = ORPHANED;
    }
    close_file(client);
    close(client->fd);
    client->fd = -1;
    client->state = next;
}

/*
 * For how many clients there are descriptors. Each has a socket and a file, and as many again stay for the library, which needs
 * one for each connection to the backend. Whoever comes on top is turned away at once.
 */
static size_t room_for_clients(void) {
    const rlim_t wanted = 4 * CLIENTS;
    struct rlimit files = {wanted, wanted};
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < wanted) {
        struct rlimit more = {files.rlim_max < wanted ? files.rlim_max : wanted, files.rlim_max};
        files = setrlimit(RLIMIT_NOFILE, &more) == 0 ? more : files;
    }
    if (files.rlim_cur >= wanted) {
        return CLIENTS;
    }
    size_t room = (size_t)files.rlim_cur / 4;
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
        for (size_t i = 0; i < server.room && client == NULL; i++) {
            client = server.clients[i].state == FREE ? &server.clients[i] : NULL;
        }
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data = {.ptr = client}};
        if (client == NULL || epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
            close(fd);
            continue;
        }
        client->state = READING;
        client->fd = fd;
        client->file = -1;
        client->head_length = 0;
        client->deadline = now() + CLIENT_PATIENCE;
        inet_ntop(AF_INET, &peer.sin_addr, client->ip, sizeof client->ip);
    }
    if (errno == EMFILE || errno == ENFILE) {
        listen_for(0);
        server.accepts_from = now() + 1;
    }
}

/* ---- answering ---- */

static void reply(struct client *client, const char *status, const char *headers, off_t length) {
    client->reply_sent = 0;
    client->file_sent = 0;
    client->file_length = length;
    int written = snprintf(client->reply, sizeof client->reply,
                           "HTTP/1.1 %s\r\nContent-Length: %lld\r\nCache-Control: no-store\r\n%s%s\r\n", status,
                           (long long)length, headers, client->keep_alive ? "" : "Connection: close\r\n");
    client->reply_length = (size_t)written;
    client->state = SENDING;
    client->deadline = now() + CLIENT_PATIENCE;
    watch(client, EPOLLOUT | EPOLLRDHUP);
}

static void refuse(struct client *client, const char *status) {
    reply(client, status, "", 0);
}

static const char *content_type(const char *path) {
    const char *dot = strrchr(path, '.');
    if (dot != NULL && strcmp(dot, ".m3u8") == 0) {
        return "application/vnd.apple.mpegurl";
    }
    return dot != NULL && strcmp(dot, ".ts") == 0 ? "video/mp2t" : "application/octet-stream";
}

static void serve(struct client *client) {
    struct stat about;
    char headers[256];
    /* Relative to ROOT, which the path cannot leave: it has no dot segments. O_NONBLOCK: a FIFO must not stop the loop. */
    client->file = openat(server.root, client->path + 1, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (client->file < 0 || fstat(client->file, &about) != 0 || !S_ISREG(about.st_mode)) {
        close_file(client);
        refuse(client, "404 Not Found");
        return;
    }
    int written = snprintf(headers, sizeof headers, "Content-Type: %s\r\n", content_type(client->path));
    if (client->opens) {
        snprintf(headers + written, sizeof headers - (size_t)written,
                 "Set-Cookie: session=%s; Path=/; HttpOnly; SameSite=Lax\r\n", client->opening.id);
    }
    reply(client, "200 OK", headers, about.st_size);
    if (client->head_only) {
        close_file(client);
    }
}

static void decided(struct client *client, const alta_auth_decision *decision) {
    if (client->state == ORPHANED) {
        client->state = FREE;
        return;
    }
    if (decision->verdict == ALTA_AUTH_ALLOW) {
        /* An allow that nobody gave (an outage) opens no session: the next request asks again. */
        client->opens = client->opens && decision->origin != ALTA_AUTH_ORIGIN_DEFAULT;
        if (client->opens) {
            keep_session(&client->opening);
        }
        serve(client);
    } else if (decision->location.len > 0) {
        char headers[3072];
        snprintf(headers, sizeof headers, "Location: %.*s\r\n", (int)decision->location.len, decision->location.ptr);
        reply(client, "302 Found", headers, 0);
    } else {
        refuse(client, "403 Forbidden");
    }
}

/* `origin`, `ip` and the rest live until submit returns, which is as long as the library needs them. */
static void ask(struct client *client, const char *user_agent) {
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    const char *channel_end = strchr(client->path + 1, '/');
    request.session_id = alta_auth_str_of(client->opening.id);
    request.ip = alta_auth_str_of(client->ip);
    request.path = alta_auth_str_of(client->path);
    request.query = alta_auth_str_of(client->opening.query);
    request.origin = alta_auth_str_of(server.origin);
    request.user_agent = alta_auth_str_of(user_agent);
    /* "/news/": with its slashes, so that no file in ROOT itself is taken for the channel of that name. */
    request.scope.ptr = client->path;
    request.scope.len = channel_end != NULL ? (size_t)(channel_end + 1 - client->path) : 1;

    /* Before submit, which may be answered by the time it returns. */
    client->state = ASKING;
    int32_t status = alta_auth_queue_submit(server.queue, &request, client, &client->ticket);
    switch (status) {
    case ALTA_AUTH_OK:
        /* The library has its own deadline; this one is for clients. Readable data waits, leaving is noticed. */
        watch(client, EPOLLRDHUP);
        return;
    case ALTA_AUTH_ERR_FULL:
    case ALTA_AUTH_ERR_CLOSED:
    case ALTA_AUTH_ERR_SYSTEM:
        client->opens = 0;
        if (alta_auth_default_action(server.engine) == ALTA_AUTH_ALLOW) {
            serve(client);
        } else {
            refuse(client, "403 Forbidden");
        }
        return;
    default: /* ERR_INVALID: what the client sent cannot be asked. Defects refuse as well. */
        refuse(client, "403 Forbidden");
        return;
    }
}

/* ---- reading ---- */

/*
 * Decodes percent-escapes once, drops empty and "." segments, and refuses what two programs might read differently:
 * "..", NUL and control bytes, backslashes, "?" and "#" that were escaped. Only after this is it a path to ask for.
 */
static int normalise(const char *target, size_t length, char *path, size_t size) {
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)target[i];
        if (byte == '%') {
            char digits[3] = "";
            if (i + 2 >= length || strspn(memcpy(digits, target + i + 1, 2), "0123456789abcdefABCDEF") != 2) {
                return 0;
            }
            byte = (unsigned char)strtoul(digits, NULL, 16);
            i += 2;
        }
        if (byte < 0x20 || byte == 0x7f || byte == '\\' || byte == '?' || byte == '#' || used + 1 >= size) {
            return 0;
        }
        if (byte == '/' && used > 0) {
            if (path[used - 1] == '/') {
                continue;
            }
            if (used >= 2 && path[used - 1] == '.' && path[used - 2] == '/') {
                used--;
                continue;
            }
            if (used >= 3 && memcmp(path + used - 3, "/..", 3) == 0) {
                return 0;
            }
        }
        path[used++] = (char)byte;
    }
    path[used] = '\0';
    /* A directory has no file to serve; this also stands for a path that ends in "." or "..". */
    const char *name = used > 0 && path[0] == '/' ? strrchr(path, '/') + 1 : "";
    return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* The value of a header, "" if it is absent. NULL if it is there twice. The head is modified: values end in NUL. */
static const char *header(char *lines, const char *name) {
    const char *value = "";
    size_t length = strlen(name);
    for (char *line = lines; line != NULL && *line != '\0';) {
        char *end = strstr(line, "\r\n");
        char *next = end != NULL ? end + 2 : line + strlen(line);
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            if (value[0] != '\0') {
                return NULL;
            }
            value = line + length + 1 + strspn(line + length + 1, " \t");
        }
        line = next;
    }
    return value;
}

/* Copies one header's value up to the end of its line. */
static int copy_header(char *lines, const char *name, char *out, size_t size) {
    const char *value = header(lines, name);
    size_t length = value != NULL ? strcspn(value, "\r") : size;
    if (length >= size) {
        return 0;
    }
    memcpy(out, value, length);
    out[length] = '\0';
    return 1;
}

static struct session *session_of(struct client *client, const char *cookies) {
    static const char name[] = "session=";
    const size_t before_id = sizeof name - 1;
    struct session *session = NULL;
    for (const char *cookie = cookies; *cookie != '\0' && session == NULL; cookie += strcspn(cookie, ";")) {
        cookie += strspn(cookie, "; ");
        /* A whole one: others may end in this name, or have it in their value. */
        if (strncmp(cookie, name, before_id) == 0 && strcspn(cookie, ";") == before_id + ID_LENGTH) {
            char id[ID_LENGTH + 1] = "";
            memcpy(id, cookie + before_id, ID_LENGTH);
            session = find_session(id, client->ip);
        }
    }
    return session;
}

/* Answers the request at the start of `head`, which is complete and NUL-terminated. */
static void request(struct client *client) {
    char cookies[4096], user_agent[2048], connection[64], length[32], coding[32];
    char *line_end = strstr(client->head, "\r\n");
    char *lines = line_end + 2;
    *line_end = '\0';
    char *target = strchr(client->head, ' ');
    char *version = target != NULL ? strchr(target + 1, ' ') : NULL;
    client->keep_alive = 0;
    client->opens = 0;
    if (version == NULL || strncmp(version, " HTTP/1.", 8) != 0 || !copy_header(lines, "Cookie", cookies, sizeof cookies) ||
        !copy_header(lines, "User-Agent", user_agent, sizeof user_agent) ||
        !copy_header(lines, "Connection", connection, sizeof connection) ||
        !copy_header(lines, "Content-Length", length, sizeof length) ||
        !copy_header(lines, "Transfer-Encoding", coding, sizeof coding) || length[0] != '\0' || coding[0] != '\0') {
        refuse(client, "400 Bad Request"); /* bodies included: nothing here takes one */
        return;
    }
    *target++ = '\0';
    *version = '\0';
    client->keep_alive = strcmp(version + 1, "HTTP/1.1") == 0 && strcasecmp(connection, "close") != 0;
    client->head_only = strcmp(client->head, "HEAD") == 0;
    if (!client->head_only && strcmp(client->head, "GET") != 0) {
        refuse(client, "405 Method Not Allowed");
        return;
    }
    char *query = strchr(target, '?');
    size_t path_length = query != NULL ? (size_t)(query - target) : strlen(target);
    query = query != NULL ? query + 1 : target + path_length;
    if (!normalise(target, path_length, client->path, sizeof client->path)) {
        refuse(client, "403 Forbidden");
        return;
    }
    /* A playlist with a query of its own opens a session, unless it is the one that the cookie names. */
    struct session *session = session_of(client, cookies);
    const char *dot = strrchr(client->path, '.');
    int opens = query[0] != '\0' && dot != NULL && strcmp(dot, ".m3u8") == 0;
    if (session != NULL && (!opens || strcmp(session->query, query) == 0)) {
        session->last_used = now();
        client->opening = *session;
    } else if (new_session(&client->opening, client->ip, query)) {
        client->opens = 1;
    } else {
        refuse(client, "403 Forbidden");
        return;
    }
    ask(client, user_agent);
}

/* Answers the next request if it is complete, otherwise waits for the rest of it. */
static void next_request(struct client *client) {
    client->head[client->head_length] = '\0';
    char *end = strstr(client->head, "\r\n\r\n");
    if (end != NULL) {
        client->request_length = (size_t)(end + 4 - client->head);
        end[2] = '\0'; /* the headers' end, within the request that was consumed */
        request(client);
    } else if (client->head_length == HEAD - 1 || strlen(client->head) != client->head_length) {
        client->keep_alive = 0;
        client->request_length = client->head_length;
        refuse(client, "400 Bad Request");
    } else {
        client->state = READING;
        watch(client, EPOLLIN | EPOLLRDHUP);
    }
}

static void readable(struct client *client) {
    ssize_t got = recv(client->fd, client->head + client->head_length, HEAD - 1 - client->head_length, 0);
    if (got > 0) {
        client->head_length += (size_t)got;
        next_request(client);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        leave(client);
    }
}

static void writable(struct client *client) {
    while (client->reply_sent < client->reply_length) {
        ssize_t sent = send(client->fd, client->reply + client->reply_sent, client->reply_length - client->reply_sent,
                            client->file >= 0 ? MSG_MORE : 0);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                leave(client);
            }
            return;
        }
        client->reply_sent += (size_t)sent;
    }
    while (client->file >= 0 && client->file_sent < client->file_length) {
        ssize_t sent = sendfile(client->fd, client->file, &client->file_sent,
                                (size_t)(client->file_length - client->file_sent));
        /* 0: the file became shorter than was promised. */
        if (sent == 0 || (sent < 0 && errno != EAGAIN && errno != EINTR)) {
            leave(client);
            return;
        }
        if (sent < 0) {
            return;
        }
        client->deadline = now() + CLIENT_PATIENCE;
    }
    close_file(client);
    if (!client->keep_alive) {
        leave(client);
        return;
    }
    client->head_length -= client->request_length;
    memmove(client->head, client->head + client->request_length, client->head_length);
    next_request(client);
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

static void sweep(void) {
    time_t time = now();
    for (size_t i = 0; i < CLIENTS; i++) {
        struct client *client = &server.clients[i];
        /* A client that is ASKING waits for the library, whose `timeout` is the deadline. */
        if ((client->state == READING || client->state == SENDING) && time >= client->deadline) {
            leave(client);
        }
    }
    if (server.accepts_from != 0 && time >= server.accepts_from) {
        server.accepts_from = 0;
        listen_for(EPOLLIN);
    }
}

static void run(void) {
    struct epoll_event events[EVENTS];
    while (!ending) {
        int accepts = 0, reaps = 0;
        int count = epoll_wait(server.epoll, events, EVENTS, 1000);
        /* Clients first: a slot that is freed by one event is not taken again before all of this batch are seen. */
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            accepts |= events[i].data.ptr == &server.listener;
            reaps |= events[i].data.ptr == &server.queue;
            if (events[i].data.ptr == &server.listener || events[i].data.ptr == &server.queue) {
                continue;
            }
            if ((events[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0) {
                leave(client);
            } else if (client->state == READING) {
                readable(client);
            } else if (client->state == SENDING) {
                writable(client);
            }
        }
        if (reaps) {
            reap();
        }
        if (accepts) {
            accept_clients();
        }
        sweep();
    }
}

static int add(int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = what}};
    return epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) == 0;
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
        getsockname(server.listener, (struct sockaddr *)&address, &length) != 0 || !add(server.listener, &server.listener)) {
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
    if (argc < 3) {
        fprintf(stderr, "usage: epoll_hls ROOT PORT [KEY=VALUE]...\n");
        return 64;
    }
    /* sendfile to a client that left would raise SIGPIPE; the library itself never does. */
    signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    server.room = room_for_clients();
    server.root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (server.root < 0) {
        perror(argv[1]);
        return 66;
    }
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.engine = start(argc - 3, argv + 3);
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
    if (!add(alta_auth_queue_fd(server.queue), &server.queue)) {
        perror("epoll");
    } else if (listen_on(argv[2])) {
        started = 1;
    }
    if (!started) {
        alta_auth_queue_free(server.queue);
        alta_auth_engine_free(server.engine);
        return 71;
    }
    run();
    for (size_t i = 0; i < CLIENTS; i++) {
        if (server.clients[i].state != FREE && server.clients[i].state != ORPHANED) {
            leave(&server.clients[i]);
        }
    }
    close(server.listener);
    alta_auth_queue_free(server.queue);
    alta_auth_engine_free(server.engine);
    return 0;
}
