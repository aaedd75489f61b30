/*
 * Exactly once under chaos: threads submit in callback mode, through queues and in batches, with cancels, revokes,
 * slow and dying answers, statistics read all the while, and a shutdown in the middle. Each accepted check is
 * delivered once or cancelled, never both, and the counters agree with what the host has seen.
 */
#define _GNU_SOURCE
#include "support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 4, SESSIONS = 200, BATCH = 16, RECENT = 1000 };

/* One check. The host's view of it is one byte, moved by atomic steps. */
enum { REFUSED = 0, ACCEPTED = 1, DELIVERED = 2, CANCELLED = 4 };

typedef struct world world;

typedef struct place {
    _Atomic unsigned char state;
    uint64_t ticket;
    world *in;
} place;

struct world {
    alta_auth_engine *engine;
    size_t per_worker;
    char sessions[SESSIONS][12];
    place *places[WORKERS];
    atomic_size_t submitted;
    atomic_size_t full;
    atomic_size_t delivered;
    atomic_bool over;
    gate *half;
    size_t half_at;
};

typedef struct worker {
    world *in;
    size_t index;
    uint64_t random;
    alta_auth_queue *queue;
} worker;

/* xorshift64: reproducible, and no lock */
static uint64_t next_random(worker *w) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

static void deliver(place *p) {
    unsigned char before = atomic_fetch_or(&p->state, DELIVERED);
    if (before & (DELIVERED | CANCELLED)) {
        fail(__FILE__, __LINE__, "delivered in state %u", before);
    }
    atomic_fetch_add(&p->in->delivered, 1);
}

static void on_chaos(void *user_data, const alta_auth_decision *decision) {
    place *p = user_data;
    CHECK(decision->verdict == ALTA_AUTH_ALLOW || decision->verdict == ALTA_AUTH_DENY);
    deliver(p);
}

static void reap_some(worker *w) {
    alta_auth_completion done[32];
    alta_auth_completion blank = ALTA_AUTH_COMPLETION_INIT;
    done[0] = blank;
    size_t n = alta_auth_queue_reap(w->queue, done, 32);
    for (size_t i = 0; i < n; i++) {
        deliver(done[i].user_data);
    }
}

static void count_accepted(worker *w, place *p, int32_t status) {
    world *in = w->in;
    if (status == ALTA_AUTH_OK) {
        atomic_fetch_or(&p->state, ACCEPTED);
        if (atomic_fetch_add(&in->submitted, 1) + 1 == in->half_at) {
            gate_open(in->half);
        }
    } else if (status == ALTA_AUTH_ERR_FULL) {
        atomic_fetch_add(&in->full, 1);
    } else {
        CHECK_EQ(status, ALTA_AUTH_ERR_CLOSED);
    }
}

static alta_auth_request chaotic_request(worker *w) {
    static const char *const queries[] = {"token=123", "token=123", "token=123", "token=9", "token=slow",
                                          "token=reset", "token=close", "token=brief"};
    alta_auth_request request = ask(w->in->sessions[next_random(w) % SESSIONS], queries[next_random(w) % 8]);
    request.flags = next_random(w) % 16 == 0 ? ALTA_AUTH_FRESH : 0;
    request.timeout_ms = next_random(w) % 8 == 0 ? 5 : 0;
    return request;
}

/* As a host that is told ERR_FULL: fetches what it can, waits a moment, and asks again. */
static void submit_until_there_is_room(worker *w, const alta_auth_request *request, place *p) {
    for (;;) {
        int32_t status = w->index % 2 ? alta_auth_submit(w->in->engine, request, on_chaos, p, &p->ticket)
                                      : alta_auth_queue_submit(w->queue, request, p, &p->ticket);
        count_accepted(w, p, status);
        if (status != ALTA_AUTH_ERR_FULL) {
            return;
        }
        if (w->queue) {
            reap_some(w);
        }
        pass_ms(1);
    }
}

static void cancel_one(worker *w, place *p) {
    int32_t status = alta_auth_cancel(w->in->engine, p->ticket);
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_NOT_FOUND);
    if (status == ALTA_AUTH_OK && atomic_fetch_or(&p->state, CANCELLED) & (DELIVERED | CANCELLED)) {
        fail(__FILE__, __LINE__, "cancelled after its end");
    }
}

/* Submits the check of places[at], and sometimes cancels one of the last: just submitted, in flight or delivered. */
static void submit_one(worker *w, place *places, size_t at) {
    alta_auth_request request = chaotic_request(w);
    submit_until_there_is_room(w, &request, &places[at]);
    if (next_random(w) % 5 == 0) {
        cancel_one(w, &places[at - next_random(w) % (at < RECENT ? at + 1 : RECENT)]);
    }
    if (next_random(w) % 50 == 0) {
        CHECK_EQ(alta_auth_revoke(w->in->engine, request.session_id), ALTA_AUTH_OK);
    }
}

static void submit_many(worker *w, place *places) {
    alta_auth_request requests[BATCH];
    void *pointers[BATCH];
    int32_t statuses[BATCH];
    for (size_t i = 0; i < BATCH; i++) {
        requests[i] = chaotic_request(w);
        pointers[i] = &places[i];
    }
    size_t n = w->index % 2 ? alta_auth_submit_batch(w->in->engine, requests, BATCH, on_chaos, pointers, statuses)
                            : alta_auth_queue_submit_batch(w->queue, requests, BATCH, pointers, statuses);
    for (size_t i = 0; i < BATCH; i++) {
        n -= statuses[i] == ALTA_AUTH_OK;
        count_accepted(w, &places[i], statuses[i]);
    }
    CHECK_EQ(n, 0);
    for (size_t i = 0; i < BATCH; i++) {
        if (statuses[i] == ALTA_AUTH_ERR_FULL) {
            submit_until_there_is_room(w, &requests[i], &places[i]);
        }
    }
}

static void *work(void *context) {
    worker *w = context;
    world *in = w->in;
    place *places = in->places[w->index];
    for (size_t i = 0; i + BATCH <= in->per_worker;) {
        if (next_random(w) % 8 == 0) {
            submit_many(w, places + i);
            i += BATCH;
        } else {
            submit_one(w, places, i);
            i++;
        }
        if (w->index % 2 == 0 && next_random(w) % 4 == 0) {
            reap_some(w);
        }
    }
    return NULL;
}

static void *watch(void *context) {
    world *in = context;
    while (!atomic_load(&in->over)) {
        stats_of(in->engine); /* checks the identity */
    }
    return NULL;
}

CASE(exactly_once_under_chaos) {
    backend *b = backend_start();
    reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
    reply brief = {.status = 200, .headers = "X-AuthDuration: 1\r\n"};
    reply slow = {.status = 200, .delay_ms = 20}, reset = {.kind = REPLY_RESET}, closed = {.kind = REPLY_CLOSE};
    backend_rule(b, "123", remembered);
    backend_rule(b, "brief", brief);
    backend_rule(b, "slow", slow);
    backend_rule(b, "reset", reset);
    backend_rule(b, "close", closed);
    static world in;
    size_t total = parameter("CONTRACT_CHECKS", 100000);
    in.engine = engine_with(backend_url(b), "inbox.capacity", "4096", "threads.io", "2", "threads.callback", "2",
                            "pool.max_connections", "64", NULL);
    in.per_worker = total / WORKERS;
    in.half = gate_new();
    in.half_at = total / 2; /* the others find the engine closed, but those that were faster than the shutdown */
    for (size_t i = 0; i < SESSIONS; i++) {
        snprintf(in.sessions[i], sizeof in.sessions[i], "s%zu", i);
    }
    static worker workers[WORKERS];
    pthread_t threads[WORKERS], watcher;
    for (size_t i = 0; i < WORKERS; i++) {
        in.places[i] = calloc(in.per_worker, sizeof *in.places[i]);
        CHECK(in.places[i] != NULL);
        for (size_t k = 0; k < in.per_worker; k++) {
            in.places[i][k].in = &in;
        }
        worker w = {&in, i, 0x9E3779B97F4A7C15U + i, i % 2 ? NULL : queue_on(in.engine)};
        workers[i] = w;
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
    CHECK(pthread_create(&watcher, NULL, watch, &in) == 0);
    CHECK(gate_wait_while(in.half, &in.submitted));
    int32_t status = alta_auth_engine_shutdown(in.engine, 5);
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_TIMEOUT);
    for (size_t i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (size_t i = 0; i < WORKERS; i += 2) {
        for (size_t before = 1, after = 0; before != after;) { /* all that is decided is in the queue by now */
            before = atomic_load(&in.delivered);
            reap_some(&workers[i]);
            after = atomic_load(&in.delivered);
        }
    }
    atomic_store(&in.over, true);
    pthread_join(watcher, NULL);
    alta_auth_stats stats = stats_of(in.engine);
    CHECK_EQ(stats.pending, 0);
    check_sums(&stats);
    for (size_t i = 0; i < WORKERS; i += 2) {
        alta_auth_queue_free(workers[i].queue);
    }
    alta_auth_engine_free(in.engine);
    size_t accepted = 0, delivered = 0, cancelled = 0;
    for (size_t i = 0; i < WORKERS; i++) {
        for (size_t k = 0; k < in.per_worker; k++) {
            unsigned char state = atomic_load(&in.places[i][k].state);
            CHECK(state == REFUSED || state == (ACCEPTED | DELIVERED) || state == (ACCEPTED | CANCELLED));
            accepted += (state & ACCEPTED) != 0;
            delivered += (state & DELIVERED) != 0;
            cancelled += (state & CANCELLED) != 0;
        }
        free(in.places[i]);
    }
    CHECK_EQ(stats.submitted, accepted);
    CHECK_EQ(stats.completed, delivered);
    CHECK_EQ(stats.cancelled, cancelled);
    CHECK_EQ(stats.refused, atomic_load(&in.full));
    gate_free(in.half);
    backend_stop(b);
}
