/*
 * A scripted billing backend: one thread, one poll loop, on 127.0.0.1 at a port of the kernel's choice.
 *
 * What it answers is chosen by the client's token. Without a rule it is the reference backend: `token=123` gets an
 * empty 200, everything else an empty 403, and connections are kept. It counts what it sees, and keeps the last
 * request of each token, so that a case can check the wire. All functions may be called from any thread.
 */
#ifndef CONTRACT_BACKEND_H
#define CONTRACT_BACKEND_H

#include <stdbool.h>
#include <stddef.h>

typedef struct backend backend;

typedef enum reply_kind {
    REPLY_STATUS,          /* status, headers, body; Content-Length is added */
    REPLY_RAW,             /* `raw` as it stands, then close */
    REPLY_CLOSE,           /* close without a byte */
    REPLY_RESET,           /* close with a TCP reset, without a byte */
    REPLY_CLOSE_IF_REUSED, /* close without a byte unless this is the connection's first request; then as REPLY_STATUS */
    REPLY_CLOSE_UNREAD     /* reset as soon as a connection is accepted, nothing read; only as the rule for everything */
} reply_kind;

typedef struct reply {
    reply_kind kind;
    int status;
    const char *headers; /* "Name: value\r\n"..., NULL for none; texts must outlive the backend */
    const char *body;
    const char *raw;
    int delay_ms;
    bool hold; /* answer only after backend_release */
} reply;

backend *backend_start(void);
void backend_stop(backend *);

/* The rule for a token (the text of `token=` up to the next '&'), or for all without one of their own if NULL. */
void backend_rule(backend *, const char *token, reply);
/* Lets go of what is held for the token, now and later. */
void backend_release(backend *, const char *token);

const char *backend_url(const backend *);
/* http://127.0.0.1:PORT where nobody listens. */
void refused_url(char *out, size_t size);

size_t backend_requests(backend *, const char *token); /* NULL: all */
size_t backend_connections(backend *);                 /* accepted so far */
/* Until the clients have closed all connections; false at the deadline. */
bool backend_wait_closed(backend *);
/* False at the deadline. */
bool backend_wait_requests(backend *, const char *token, size_t at_least);
/* The head of the token's last request. */
void backend_last_request(backend *, const char *token, char *out, size_t size);

#endif
