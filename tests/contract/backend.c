#define _GNU_SOURCE
#include "backend.h"

#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, MAX_RULES = 64, MAX_TOKEN = 64, REQUEST_SIZE = 48 * 1024 };

typedef struct rule {
    char token[MAX_TOKEN];
    bool has_reply;
    reply reply;
    size_t requests;
    char *last; /* head of the last request */
} rule;

typedef struct connection {
    int fd;
    size_t answered;
    bool waiting; /* a whole request is here and its reply is due at `due_ns`, or when its rule is released */
    rule *rule;
    uint64_t due_ns;
    size_t used;
    char *input;
} connection;

struct backend {
    pthread_t thread;
    pthread_mutex_t lock; /* covers everything below; the loop holds it except in poll */
    pthread_cond_t changed;
    int listener;
    int wake;
    bool stopping;
    char url[64];
    rule everything; /* the rule of all tokens without one, and the count of all requests */
    rule rules[MAX_RULES];
    size_t rule_count;
    size_t accepted;
    size_t connection_count;
    connection connections[MAX_CONNECTIONS];
};

static int listen_on_loopback(unsigned *port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    CHECK(fd >= 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(fd, 1024) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

void refused_url(char *out, size_t size) {
    unsigned port = 0;
    close(listen_on_loopback(&port));
    snprintf(out, size, "http://127.0.0.1:%u/auth", port);
}

/* ---- rules; the lock is held ---- */

static rule *find_rule(backend *b, const char *token, bool make) {
    if (!token) {
        return &b->everything;
    }
    for (size_t i = 0; i < b->rule_count; i++) {
        if (strcmp(b->rules[i].token, token) == 0) {
            return &b->rules[i];
        }
    }
    if (!make || b->rule_count == MAX_RULES) {
        return NULL;
    }
    rule *r = &b->rules[b->rule_count++];
    snprintf(r->token, sizeof r->token, "%s", token);
    return r;
}

static void token_of(const char *request, char *token) {
    size_t used = 0;
    const char *line_end = strstr(request, "\r\n");
    const char *at = strstr(request, "token=");
    if (at && at < line_end) {
        for (at += 6; *at && !strchr("& \r", *at) && used + 1 < MAX_TOKEN; at++) {
            token[used++] = *at;
        }
    }
    token[used] = '\0';
}

static reply reply_for(backend *b, const rule *r) {
    if (r->has_reply) {
        return r->reply;
    }
    if (b->everything.has_reply) {
        return b->everything.reply;
    }
    reply reference = {.status = strcmp(r->token, "123") == 0 ? 200 : 403};
    return reference;
}

/* ---- connections; the lock is held ---- */

static void drop(backend *b, connection *c, bool reset) {
    if (reset) {
        struct linger now = {1, 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(c->fd);
    free(c->input);
    *c = b->connections[--b->connection_count];
    pthread_cond_broadcast(&b->changed);
}

static void accept_all(backend *b) {
    for (;;) {
        int fd = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            return;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        b->accepted++;
        CHECK(b->connection_count < MAX_CONNECTIONS);
        connection *c = &b->connections[b->connection_count++];
        connection fresh = {.fd = fd, .input = malloc(REQUEST_SIZE)};
        CHECK(fresh.input != NULL);
        *c = fresh;
        if (b->everything.has_reply && b->everything.reply.kind == REPLY_CLOSE_UNREAD) {
            drop(b, c, true);
        }
    }
}

static void send_all(int fd, const char *text) {
    for (size_t left = strlen(text); left > 0;) {
        ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
        if (n > 0) {
            text += n;
            left -= (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd p = {fd, POLLOUT, 0};
            poll(&p, 1, deadline_ms());
        } else if (errno != EINTR) {
            return; /* the other side is gone: its business */
        }
    }
}

/* True if the connection is still there. */
static bool answer(backend *b, connection *c) {
    reply r = reply_for(b, c->rule);
    c->waiting = false;
    c->answered++;
    if (r.kind == REPLY_CLOSE || r.kind == REPLY_RESET || (r.kind == REPLY_CLOSE_IF_REUSED && c->answered > 1)) {
        drop(b, c, r.kind == REPLY_RESET);
        return false;
    }
    if (r.kind == REPLY_RAW) {
        send_all(c->fd, r.raw);
        drop(b, c, false);
        return false;
    }
    char head[32 * 1024];
    const char *body = r.body ? r.body : "";
    snprintf(head, sizeof head, "HTTP/1.1 %d Status\r\n%sContent-Length: %zu\r\n\r\n%s", r.status,
             r.headers ? r.headers : "", strlen(body), body);
    send_all(c->fd, head);
    return true;
}

/* Takes the next whole request out of the input, if there is one; false if the connection was dropped. */
static bool take_request(backend *b, connection *c) {
    if (c->waiting || c->used == 0) {
        return true;
    }
    if (c->input[0] < 'A' || c->input[0] > 'Z') { /* a TLS client on a plain port */
        send_all(c->fd, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        drop(b, c, false);
        return false;
    }
    c->input[c->used] = '\0';
    char *end = strstr(c->input, "\r\n\r\n");
    if (!end) {
        CHECK(c->used < REQUEST_SIZE - 1);
        return true;
    }
    char token[MAX_TOKEN];
    size_t length = (size_t)(end + 4 - c->input);
    token_of(c->input, token);
    rule *r = find_rule(b, token, true);
    r = r ? r : &b->everything;
    free(r->last);
    r->last = strndup(c->input, length);
    memmove(c->input, c->input + length, c->used - length);
    c->used -= length;
    c->rule = r;
    c->waiting = true;
    c->due_ns = now_ns() + (uint64_t)reply_for(b, r).delay_ms * 1000000U;
    r->requests += r != &b->everything;
    b->everything.requests++;
    pthread_cond_broadcast(&b->changed);
    return true;
}

/* Reads, takes requests and answers those that are due; false if the connection was dropped. */
static bool serve(backend *b, connection *c, bool readable) {
    if (readable) {
        ssize_t n = recv(c->fd, c->input + c->used, REQUEST_SIZE - 1 - c->used, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            drop(b, c, false);
            return false;
        }
        c->used += n > 0 ? (size_t)n : 0;
    }
    for (;;) {
        if (!take_request(b, c)) {
            return false;
        }
        if (!c->waiting || reply_for(b, c->rule).hold || now_ns() < c->due_ns) {
            return true;
        }
        if (!answer(b, c)) {
            return false;
        }
    }
}

static int poll_timeout(backend *b) {
    int timeout = -1;
    uint64_t now = now_ns();
    for (size_t i = 0; i < b->connection_count; i++) {
        const connection *c = &b->connections[i];
        if (c->waiting && !reply_for(b, c->rule).hold) {
            int left = c->due_ns > now ? (int)((c->due_ns - now) / 1000000U) + 1 : 0;
            timeout = timeout < 0 || left < timeout ? left : timeout;
        }
    }
    return timeout;
}

static void *loop(void *context) {
    backend *b = context;
    static _Thread_local struct pollfd polls[MAX_CONNECTIONS + 2];
    pthread_mutex_lock(&b->lock);
    while (!b->stopping) {
        nfds_t count = 0;
        polls[count++] = (struct pollfd){b->wake, POLLIN, 0};
        polls[count++] = (struct pollfd){b->listener, POLLIN, 0};
        for (size_t i = 0; i < b->connection_count; i++) {
            polls[count++] = (struct pollfd){b->connections[i].fd, POLLIN, 0};
        }
        int timeout = poll_timeout(b);
        pthread_mutex_unlock(&b->lock);
        poll(polls, count, timeout);
        pthread_mutex_lock(&b->lock);
        if (polls[0].revents) {
            uint64_t ignored;
            CHECK(read(b->wake, &ignored, sizeof ignored) == sizeof ignored);
        }
        /* Backwards, since a dropped connection is replaced by the last one, which has been served by then. */
        for (size_t i = count - 2; i-- > 0;) {
            serve(b, &b->connections[i], polls[i + 2].revents != 0);
        }
        if (polls[1].revents) {
            accept_all(b);
        }
    }
    while (b->connection_count > 0) {
        drop(b, &b->connections[0], false);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static void wake(backend *b) {
    uint64_t one = 1;
    CHECK(write(b->wake, &one, sizeof one) == sizeof one);
}

/* ---- for the cases ---- */

backend *backend_start(void) {
    backend *b = calloc(1, sizeof *b);
    CHECK(b != NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    unsigned port = 0;
    b->listener = listen_on_loopback(&port);
    b->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(b->wake >= 0);
    snprintf(b->url, sizeof b->url, "http://127.0.0.1:%u/auth", port);
    sigset_t all, old; /* a signal meant for the host under test must not land here */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    CHECK(pthread_create(&b->thread, NULL, loop, b) == 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return b;
}

void backend_stop(backend *b) {
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_mutex_unlock(&b->lock);
    wake(b);
    pthread_join(b->thread, NULL);
    close(b->listener);
    close(b->wake);
    for (size_t i = 0; i < b->rule_count; i++) {
        free(b->rules[i].last);
    }
    free(b->everything.last);
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

void backend_rule(backend *b, const char *token, reply r) {
    pthread_mutex_lock(&b->lock);
    rule *to = find_rule(b, token, true);
    CHECK(to != NULL);
    to->has_reply = true;
    to->reply = r;
    pthread_mutex_unlock(&b->lock);
    wake(b);
}

void backend_release(backend *b, const char *token) {
    pthread_mutex_lock(&b->lock);
    rule *r = find_rule(b, token, false);
    CHECK(r != NULL);
    r->reply.hold = false;
    pthread_mutex_unlock(&b->lock);
    wake(b);
}

const char *backend_url(const backend *b) {
    return b->url;
}

size_t backend_requests(backend *b, const char *token) {
    pthread_mutex_lock(&b->lock);
    rule *r = find_rule(b, token, false);
    size_t n = r ? r->requests : 0;
    pthread_mutex_unlock(&b->lock);
    return n;
}

size_t backend_connections(backend *b) {
    pthread_mutex_lock(&b->lock);
    size_t n = b->accepted;
    pthread_mutex_unlock(&b->lock);
    return n;
}

typedef bool (*condition)(backend *, const char *token, size_t at_least);

/* Waits until the condition holds, looking at it under the lock after each change. */
static bool wait_until(backend *b, condition holds, const char *token, size_t at_least) {
    uint64_t at = now_ns() + (uint64_t)deadline_ms() * 1000000U;
    struct timespec until = {(time_t)(at / 1000000000U), (long)(at % 1000000000U)};
    int error = 0;
    pthread_mutex_lock(&b->lock);
    while (!holds(b, token, at_least) && error == 0) {
        error = pthread_cond_timedwait(&b->changed, &b->lock, &until);
    }
    bool reached = holds(b, token, at_least);
    pthread_mutex_unlock(&b->lock);
    return reached;
}

static bool has_requests(backend *b, const char *token, size_t at_least) {
    const rule *r = find_rule(b, token, false);
    return r && r->requests >= at_least;
}

bool backend_wait_requests(backend *b, const char *token, size_t at_least) {
    return wait_until(b, has_requests, token, at_least);
}

static bool is_closed(backend *b, const char *token, size_t unused) {
    (void)token;
    (void)unused;
    return b->connection_count == 0;
}

bool backend_wait_closed(backend *b) {
    return wait_until(b, is_closed, NULL, 0);
}

void backend_last_request(backend *b, const char *token, char *out, size_t size) {
    pthread_mutex_lock(&b->lock);
    rule *r = find_rule(b, token, false);
    snprintf(out, size, "%s", r && r->last ? r->last : "");
    pthread_mutex_unlock(&b->lock);
}
