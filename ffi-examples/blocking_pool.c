/*
 * blocking_pool: a thread per request, each waiting for its own decision with alta_auth_check.
 *
 *     blocking_pool PORT [KEY=VALUE]...     e.g.  blocking_pool 8080 backend.url=http://127.0.0.1:6000/auth
 *
 * For hosts that have a thread pool already (GStreamer's RTSP server, Apache's worker). It answers each GET with 200 or
 * 403 and a line that says why; a real host would serve the file. A waiting thread costs its stack and no more: with
 * 32 threads and a backend that hangs for `timeout` (2 s), 16 requests a second get through, so choose both
 * together, or use a queue (epoll_hls.c). Port 0 takes any free one. SIGTERM and SIGINT end it.
 */
#define _POSIX_C_SOURCE 200809L
#include <alta_auth.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 32, HEAD = 8192, PATIENCE_MS = 5000 };

struct server {
    alta_auth_engine *engine;
    int listener;
    pthread_mutex_t lock; /* of what follows */
    int ending;
    int clients[THREADS]; /* whom each thread serves; -1: nobody */
};

struct worker {
    pthread_t thread;
    struct server *server;
    size_t number;
};

struct answer {
    int serve;
    char reason[128];
};

/*
 * The path must be the one that is served. This host serves none, and so refuses any spelling that needs
 * normalisation: percent-escapes, dot segments, doubled slashes. epoll_hls.c normalises.
 */
static int plain_path(const char *path) {
    return path[0] == '/' && strspn(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-") == strlen(path) &&
           strstr(path, "//") == NULL && strstr(path, "/.") == NULL;
}

static struct answer ask(alta_auth_engine *engine, const char *ip, const char *path, const char *query) {
    struct answer answer = {0, ""};
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    char session[512];
    /* Nothing better is known here: equal questions of one address share a session. */
    snprintf(session, sizeof session, "%s %.400s", ip, path);
    request.session_id = alta_auth_str_of(session);
    request.ip = alta_auth_str_of(ip);
    request.path = alta_auth_str_of(path);
    request.query = alta_auth_str_of(query);

    int32_t status = alta_auth_check(engine, &request, &decision);
    switch (status) {
    case ALTA_AUTH_OK:
        answer.serve = decision.verdict == ALTA_AUTH_ALLOW;
        snprintf(answer.reason, sizeof answer.reason, "%s %s", alta_auth_origin_name(decision.origin),
                 alta_auth_cause_name(decision.cause));
        return answer;
    case ALTA_AUTH_ERR_FULL:
    case ALTA_AUTH_ERR_CLOSED:
    case ALTA_AUTH_ERR_SYSTEM:
        answer.serve = alta_auth_default_action(engine) == ALTA_AUTH_ALLOW;
        break;
    default: /* ERR_INVALID, and defects: refuse. */
        break;
    }
    snprintf(answer.reason, sizeof answer.reason, "%s", alta_auth_status_name(status));
    return answer;
}

static long long now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

/*
 * Reads the head of a request. Returns 0 if there is none in time or it is too long. The time is for the whole head: a
 * timeout of each recv (SO_RCVTIMEO) would begin anew with every byte, and the client hold the thread for hours.
 */
static int read_head(int client, char *head) {
    size_t length = 0;
    const long long deadline = now_ms() + PATIENCE_MS;
    while (length < HEAD - 1) {
        struct pollfd readable = {.fd = client, .events = POLLIN, .revents = 0};
        long long left = deadline - now_ms();
        if (left <= 0 || poll(&readable, 1, (int)left) <= 0) {
            return 0;
        }
        ssize_t got = recv(client, head + length, HEAD - 1 - length, 0);
        if (got <= 0) {
            return 0;
        }
        length += (size_t)got;
        head[length] = '\0';
        if (strlen(head) != length) {
            return 0;
        }
        if (strstr(head, "\r\n\r\n") != NULL) {
            return 1;
        }
    }
    return 0;
}

static void serve(alta_auth_engine *engine, int client, const char *ip) {
    char head[HEAD];
    char reply[512];
    struct answer answer = {0, "bad request"};
    if (!read_head(client, head)) {
        return;
    }
    char *target = strncmp(head, "GET ", 4) == 0 ? head + 4 : NULL;
    char *end = target != NULL ? strpbrk(target, " \r") : NULL;
    if (end != NULL && *end == ' ') {
        *end = '\0';
        char *query = strchr(target, '?');
        if (query != NULL) {
            *query++ = '\0';
        }
        if (plain_path(target)) {
            answer = ask(engine, ip, target, query);
        }
    }
    int length = snprintf(reply, sizeof reply,
                          "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s\n",
                          answer.serve ? "200 OK" : "403 Forbidden", strlen(answer.reason) + 1, answer.reason);
    send(client, reply, (size_t)length, MSG_NOSIGNAL);
}

/* Returns 0 if no more clients are served. */
static int serves(const struct worker *worker, int client) {
    struct server *server = worker->server;
    pthread_mutex_lock(&server->lock);
    server->clients[worker->number] = client;
    int ending = server->ending;
    pthread_mutex_unlock(&server->lock);
    return !ending;
}

/* Nothing more is read from the clients: a thread waits for none. What is decided is still sent. */
static void stop_reading(struct server *server) {
    pthread_mutex_lock(&server->lock);
    server->ending = 1;
    for (size_t i = 0; i < THREADS; i++) {
        if (server->clients[i] >= 0) {
            shutdown(server->clients[i], SHUT_RD);
        }
    }
    pthread_mutex_unlock(&server->lock);
}

static void *work(void *argument) {
    const struct worker *worker = argument;
    const struct server *server = worker->server;
    for (;;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        char ip[INET_ADDRSTRLEN] = "";
        int client = accept(server->listener, (struct sockaddr *)&peer, &length);
        if (client < 0) {
            if (errno == EINVAL) {
                return NULL; /* the listener was shut down */
            }
            /* A client that left already, or no descriptor for it now. */
            poll(NULL, 0, 10);
            continue;
        }
        const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000, .tv_usec = 0};
        setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        inet_ntop(AF_INET, &peer.sin_addr, ip, sizeof ip);
        if (serves(worker, client)) {
            serve(server->engine, client, ip);
        }
        serves(worker, -1); /* before the descriptor is another's */
        close(client);
    }
}

static int listen_on(const char *port) {
    unsigned number = 0;
    if (sscanf(port, "%u", &number) != 1 || number > 65535) {
        fprintf(stderr, "%s: not a port\n", port);
        return -1;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    const int on = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 128) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) != 0) {
        perror("listen");
        return -1;
    }
    printf("listening on http://127.0.0.1:%u\n", (unsigned)ntohs(address.sin_port));
    fflush(stdout);
    return listener;
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

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: blocking_pool PORT [KEY=VALUE]...\n");
        return 64;
    }
    /* Blocked before any thread exists, so that all inherit it and sigwait below gets them. */
    sigset_t endings;
    sigemptyset(&endings);
    sigaddset(&endings, SIGTERM);
    sigaddset(&endings, SIGINT);
    pthread_sigmask(SIG_BLOCK, &endings, NULL);

    struct server server = {.engine = start(argc - 2, argv + 2), .listener = -1, .lock = PTHREAD_MUTEX_INITIALIZER};
    if (server.engine == NULL) {
        return 78;
    }
    server.listener = listen_on(argv[1]);
    if (server.listener < 0) {
        alta_auth_engine_free(server.engine);
        return 71;
    }
    struct worker workers[THREADS];
    size_t started = 0;
    for (size_t i = 0; i < THREADS; i++) {
        workers[i].server = &server;
        workers[i].number = i;
        server.clients[i] = -1;
    }
    while (started < THREADS && pthread_create(&workers[started].thread, NULL, work, &workers[started]) == 0) {
        started++;
    }
    int ending;
    if (started > 0) {
        sigwait(&endings, &ending);
    }
    /* In this order: no new requests, then no new checks, then the threads, and the engine when nobody uses it. */
    shutdown(server.listener, SHUT_RDWR);
    stop_reading(&server);
    alta_auth_engine_shutdown(server.engine, 1000);
    for (size_t i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    close(server.listener);
    alta_auth_engine_free(server.engine);
    return started > 0 ? 0 : 71;
}
