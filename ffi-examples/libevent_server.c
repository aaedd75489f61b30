/*
 * libevent_server: an evhttp server that asks before it answers, on libevent's own loop.
 *
 *     libevent_server PORT [KEY=VALUE|FILE]...   e.g.  libevent_server 8080 backend.url=http://127.0.0.1:6000/auth
 *
 * The queue's descriptor is one more event of the loop; a request waits, without a thread, until its completion is
 * reaped. evhttp does not read while a request waits, and so does not notice that its client leaves; an EV_CLOSED
 * event of our own does, and ends the connection, whose close callback cancels the check. It answers each GET with
 * 200 or 403 and a line that says why; a real host would serve the file. /metrics is for Prometheus (a real host has it
 * where viewers are not).
 *
 * A client that there is no descriptor for waits, with the listener disabled for a second at a time, and so that the
 * library never lacks one, no more clients are taken than leave it its share.
 *
 * Port 0 takes any free one. SIGHUP reads the configuration again, SIGTERM and SIGINT end it.
 */
#define _POSIX_C_SOURCE 200809L
#include <alta_auth.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, CLIENTS = 4096 };
enum { PATIENCE = 15 }; /* seconds, with a client that neither sends nor takes anything */

struct server {
    struct event_base *base;
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    struct evconnlistener *listener;
    struct event *resume; /* listening */
    int room;
    int count; /* of the settings */
    char **settings;
};

/* A request that waits for its decision. */
struct waiting {
    struct server *server;
    struct evhttp_request *request; /* NULL: the client left, and the completion is on its way */
    struct event *closed;
    uint64_t ticket;
};

static void answer(struct evhttp_request *request, int serve, const char *reason) {
    struct evbuffer *body = evbuffer_new();
    if (body != NULL) {
        evbuffer_add_printf(body, "%s\n", reason);
    }
    evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", "text/plain");
    evhttp_send_reply(request, serve ? 200 : 403, serve ? "OK" : "Forbidden", body);
    if (body != NULL) {
        evbuffer_free(body);
    }
}

static void client_left(struct evhttp_connection *connection, void *argument) {
    struct waiting *waiting = argument;
    struct evhttp_request *request = waiting->request;
    (void)connection;
    /* evhttp has detached a request whose client closed, and then it is ours; otherwise it frees it itself. */
    if (evhttp_request_get_connection(request) == NULL) {
        evhttp_request_free(request);
    }
    waiting->request = NULL;
    event_free(waiting->closed);
    if (alta_auth_cancel(waiting->server->engine, waiting->ticket) == ALTA_AUTH_OK) {
        free(waiting);
    }
}

static void on_closed(evutil_socket_t fd, short what, void *argument) {
    struct waiting *waiting = argument;
    (void)fd;
    (void)what;
    evhttp_connection_free(evhttp_request_get_connection(waiting->request));
}

static void decided(struct waiting *waiting, const alta_auth_decision *decision) {
    if (waiting->request != NULL) {
        char reason[128];
        snprintf(reason, sizeof reason, "%s %s", alta_auth_origin_name(decision->origin),
                 alta_auth_cause_name(decision->cause));
        event_free(waiting->closed);
        evhttp_connection_set_closecb(evhttp_request_get_connection(waiting->request), NULL, NULL);
        answer(waiting->request, decision->verdict == ALTA_AUTH_ALLOW, reason);
    }
    free(waiting);
}

static void queue_readable(evutil_socket_t fd, short what, void *argument) {
    struct server *server = argument;
    alta_auth_completion done[BATCH] = {ALTA_AUTH_COMPLETION_INIT};
    size_t count;
    (void)fd;
    (void)what;
    while ((count = alta_auth_queue_reap(server->queue, done, BATCH)) > 0) {
        for (size_t i = 0; i < count; i++) {
            decided(done[i].user_data, &done[i].decision);
        }
    }
}

/*
 * The path must be the one that is served. This host serves none, and so refuses any spelling that needs
 * normalisation: percent-escapes, dot segments, doubled slashes. epoll_hls.c normalises.
 */
static int plain_path(const char *path) {
    return path[0] == '/' && strspn(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-") == strlen(path) &&
           strstr(path, "//") == NULL && strstr(path, "/.") == NULL;
}

static void on_metrics(struct evhttp_request *request, void *argument) {
    struct server *server = argument;
    /* It may have grown between the two calls, by a few digits. */
    size_t room = alta_auth_metrics_text(server->engine, NULL, 0) + 1024;
    char *text = malloc(room);
    struct evbuffer *body = evbuffer_new();
    if (text == NULL || body == NULL || alta_auth_metrics_text(server->engine, text, room) >= room) {
        evhttp_send_error(request, 503, NULL);
    } else {
        evbuffer_add(body, text, strlen(text));
        evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", "text/plain; version=0.0.4");
        evhttp_send_reply(request, 200, "OK", body);
    }
    if (body != NULL) {
        evbuffer_free(body);
    }
    free(text);
}

static void on_request(struct evhttp_request *request, void *argument) {
    struct server *server = argument;
    struct evhttp_connection *connection = evhttp_request_get_connection(request);
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
    const char *path = uri != NULL ? evhttp_uri_get_path(uri) : NULL;
    char *ip = NULL;
    ev_uint16_t port;
    if (path == NULL || !plain_path(path)) {
        answer(request, 0, "bad path");
        return;
    }
    struct waiting *waiting = calloc(1, sizeof *waiting);
    evutil_socket_t socket = bufferevent_getfd(evhttp_connection_get_bufferevent(connection));
    struct event *closed = event_new(server->base, socket, EV_CLOSED, on_closed, waiting);
    if (waiting == NULL || closed == NULL || event_add(closed, NULL) != 0) {
        answer(request, 0, "out of memory");
        if (closed != NULL) {
            event_free(closed);
        }
        free(waiting);
        return;
    }
    waiting->server = server;
    waiting->closed = closed;
    waiting->request = request;
    evhttp_connection_get_peer(connection, &ip, &port);

    char session[512];
    alta_auth_request check = ALTA_AUTH_REQUEST_INIT;
    /* Nothing better is known here: equal questions of one address share a session. */
    snprintf(session, sizeof session, "%s %.400s", ip != NULL ? ip : "", path);
    check.session_id = alta_auth_str_of(session);
    check.ip = alta_auth_str_of(ip);
    check.path = alta_auth_str_of(path);
    check.query = alta_auth_str_of(evhttp_uri_get_query(uri));
    check.user_agent = alta_auth_str_of(evhttp_find_header(evhttp_request_get_input_headers(request), "User-Agent"));

    int32_t status = alta_auth_queue_submit(server->queue, &check, waiting, &waiting->ticket);
    switch (status) {
    case ALTA_AUTH_OK:
        evhttp_connection_set_closecb(connection, client_left, waiting);
        return;
    case ALTA_AUTH_ERR_FULL:
    case ALTA_AUTH_ERR_CLOSED:
    case ALTA_AUTH_ERR_SYSTEM:
        answer(request, alta_auth_default_action(server->engine) == ALTA_AUTH_ALLOW, alta_auth_status_name(status));
        break;
    default: /* ERR_INVALID, and defects: refuse. */
        answer(request, 0, alta_auth_status_name(status));
        break;
    }
    event_free(closed);
    free(waiting);
}

/* Outages, doubtful settings and the like: what an operator has to know. Called on any thread of the library. */
static void say(void *user_data, int32_t level, alta_auth_str message) {
    (void)user_data;
    (void)level;
    fprintf(stderr, "%.*s\n", (int)message.len, message.ptr);
}

static void on_signal(evutil_socket_t signal, short what, void *argument) {
    struct server *server = argument;
    (void)signal;
    (void)what;
    event_base_loopbreak(server->base);
}

/* What the arguments say, each KEY=VALUE or a file of such keys, read anew. A new engine has it, or the one that runs. */
static void configure(struct server *server) {
    char error[256] = "out of memory", key[256];
    alta_auth_config *config = alta_auth_config_new();
    alta_auth_config_set_log(config, say, NULL);
    int32_t status = alta_auth_config_set(config, "default_action", "deny", error, sizeof error);
    for (int i = 0; i < server->count && status == ALTA_AUTH_OK; i++) {
        const char *value = strchr(server->settings[i], '=');
        if (value == NULL && access(server->settings[i], R_OK) != 0) {
            /* Not what it says: it may be a secret. */
            snprintf(error, sizeof error, "setting %d: expected KEY=VALUE, or a file that can be read", i + 1);
            status = ALTA_AUTH_ERR_CONFIG;
        } else if (value == NULL) {
            status = alta_auth_config_load(config, server->settings[i], error, sizeof error);
        } else {
            size_t length = (size_t)(value - server->settings[i]);
            if (length >= sizeof key) {
                snprintf(error, sizeof error, "%.40s...: the key is too long", server->settings[i]);
                status = ALTA_AUTH_ERR_CONFIG;
                break;
            }
            memcpy(key, server->settings[i], length);
            key[length] = '\0';
            status = alta_auth_config_set(config, key, value + 1, error, sizeof error);
        }
    }
    if (status == ALTA_AUTH_OK) {
        status = server->engine == NULL ? alta_auth_engine_new(config, &server->engine, error, sizeof error)
                                        : alta_auth_engine_reload(server->engine, config, error, sizeof error);
    }
    if (status != ALTA_AUTH_OK) {
        /* Nothing has changed: who had an engine still has the one that it had. */
        fprintf(stderr, "%s: %s\n", alta_auth_status_name(status), error);
        alta_auth_config_free(config);
    }
}

static void on_hangup(evutil_socket_t signal, short what, void *argument) {
    (void)signal;
    (void)what;
    configure(argument);
}

/*
 * Clients get descriptors below this number, one each. As many again stay for the library, which needs one for each
 * connection to the backend.
 */
static int room_for_clients(void) {
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
    int room = (int)(files.rlim_cur / 2);
    fprintf(stderr, "room for %d clients, of %d: too few descriptors\n", room, (int)CLIENTS);
    return room;
}

/* evhttp does not tell how many clients it has, but a new descriptor is always the lowest that is free. */
static int has_room(const struct server *server) {
    int lowest = fcntl(evconnlistener_get_fd(server->listener), F_DUPFD_CLOEXEC, 0);
    if (lowest >= 0) {
        close(lowest);
    }
    return lowest >= 0 && lowest < server->room;
}

static void stop_listening(struct server *server) {
    const struct timeval second = {1, 0};
    evconnlistener_disable(server->listener);
    event_add(server->resume, &second);
}

static void on_resume(evutil_socket_t fd, short what, void *argument) {
    struct server *server = argument;
    (void)fd;
    (void)what;
    if (has_room(server)) {
        evconnlistener_enable(server->listener);
    } else {
        stop_listening(server);
    }
}

/* The one that listens: a listener's callbacks share one argument, and it is evhttp's. */
static struct server *listening;

/* Without this, evhttp says so and tries again, at once and for ever. */
static void on_accept_error(struct evconnlistener *listener, void *argument) {
    (void)listener;
    (void)argument;
    stop_listening(listening);
}

/* evhttp asks this for the bufferevent of each client that it has accepted. NULL: it makes its own. */
static struct bufferevent *on_accepted(struct event_base *base, void *argument) {
    struct server *server = argument;
    (void)base;
    if (!has_room(server)) {
        stop_listening(server);
    }
    return NULL;
}

/* The port that was bound, from the listening socket; 0 on failure. */
static unsigned listen_on(struct server *server, struct evhttp *http, const char *port) {
    unsigned number = 0;
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (sscanf(port, "%u", &number) != 1 || number > 65535) {
        return 0;
    }
    struct evhttp_bound_socket *bound = evhttp_bind_socket_with_handle(http, "127.0.0.1", (ev_uint16_t)number);
    if (bound == NULL || getsockname(evhttp_bound_socket_get_fd(bound), (struct sockaddr *)&address, &length) != 0) {
        return 0;
    }
    server->listener = evhttp_bound_socket_get_listener(bound);
    listening = server;
    evconnlistener_set_error_cb(server->listener, on_accept_error);
    return ntohs(address.sin_port);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: libevent_server PORT [KEY=VALUE|FILE]...\n");
        return 64;
    }
    /* evhttp writes to clients that left; the library itself never raises SIGPIPE. */
    signal(SIGPIPE, SIG_IGN);
    struct server server = {.count = argc - 2, .settings = argv + 2, .room = room_for_clients()};
    configure(&server);
    if (server.engine == NULL) {
        return 78;
    }
    int result = 71;
    struct evhttp *http = NULL;
    struct event *queue_event = NULL, *term = NULL, *interrupt = NULL, *hangup = NULL;
    unsigned port = 0;
    server.base = event_base_new();
    if (server.base != NULL && alta_auth_queue_new(server.engine, &server.queue) == ALTA_AUTH_OK) {
        http = evhttp_new(server.base);
        queue_event = event_new(server.base, alta_auth_queue_fd(server.queue), EV_READ | EV_PERSIST, queue_readable, &server);
        term = evsignal_new(server.base, SIGTERM, on_signal, &server);
        interrupt = evsignal_new(server.base, SIGINT, on_signal, &server);
        hangup = evsignal_new(server.base, SIGHUP, on_hangup, &server);
        server.resume = evtimer_new(server.base, on_resume, &server);
    }
    if (http != NULL && queue_event != NULL && term != NULL && interrupt != NULL && hangup != NULL && server.resume != NULL) {
        evhttp_set_timeout(http, PATIENCE);
        evhttp_set_bevcb(http, on_accepted, &server);
        evhttp_set_allowed_methods(http, EVHTTP_REQ_GET);
        evhttp_set_cb(http, "/metrics", on_metrics, &server);
        evhttp_set_gencb(http, on_request, &server);
        port = listen_on(&server, http, argv[1]);
    }
    if (port != 0 && event_add(queue_event, NULL) == 0 && event_add(term, NULL) == 0 && event_add(interrupt, NULL) == 0 &&
        event_add(hangup, NULL) == 0) {
        printf("listening on http://127.0.0.1:%u\n", port);
        fflush(stdout);
        event_base_dispatch(server.base);
        result = 0;
    } else {
        fprintf(stderr, "cannot listen on port %s\n", argv[1]);
    }
    /* Closes the clients first: each that waits cancels its check, while there is an engine to cancel it. */
    if (http != NULL) {
        evhttp_free(http);
    }
    /* A client that left with its completion on the way: it is there by now, or dropped with the queue. */
    if (server.queue != NULL) {
        queue_readable(-1, 0, &server);
    }
    struct event *events[] = {queue_event, term, interrupt, hangup, server.resume};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (events[i] != NULL) {
            event_free(events[i]);
        }
    }
    alta_auth_queue_free(server.queue);
    alta_auth_engine_free(server.engine);
    if (server.base != NULL) {
        event_base_free(server.base);
    }
    return result;
}
