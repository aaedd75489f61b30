/*
 * Watches under chaos: threads open, cancel and revoke them in both modes while the backend changes its mind and dies,
 * users have too many sessions, the configuration is reloaded again and again, and the engine is shut down in the
 * middle. Each watch has exactly one end: a cancel that was OK, or one decision with ALTA_AUTH_LAST. Never both, never
 * a delivery after either, never two at a time.
 */
#define _GNU_SOURCE
#include "support.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 4, SESSIONS = 60 };
enum { OPENED = 1, ENDED = 2, CANCELLED = 4 };

typedef struct world world;

typedef struct place {
    _Atomic unsigned char state;
    atomic_bool inside;
    atomic_bool published; /* the ticket may be read by other threads */
    uint64_t ticket;
    size_t told, cancels_at;
    bool called; /* in callback mode */
    world *in;
} place;

struct world {
    alta_auth_engine *engine;
    size_t per_worker;
    char sessions[SESSIONS][12];
    place *places[WORKERS];
    atomic_size_t opened[WORKERS];
    atomic_size_t attempts, ends[3]; /* by itself, by cancel, by cancel inside */
    atomic_bool over;
    gate *half;
    backend *b, *other;
};

typedef struct worker {
    world *in;
    size_t index;
    uint64_t random;
    alta_auth_queue *queue;
} worker;

static uint64_t next_random(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

/* Puts down an end; the watch must not have had one. */
static void end(place *p, unsigned char how, size_t counter) {
    unsigned char before = atomic_fetch_or(&p->state, how);
    if (before & (ENDED | CANCELLED)) {
        fail(__FILE__, __LINE__, "ended in state %u by %u", before, how);
    }
    atomic_fetch_add(&p->in->ends[counter], 1);
}

static void on_chaos(void *user_data, const alta_auth_decision *decision) {
    place *p = user_data;
    if (atomic_exchange(&p->inside, true)) {
        fail(__FILE__, __LINE__, "told twice at a time");
    }
    unsigned char state = atomic_load(&p->state);
    if (state & (ENDED | CANCELLED)) {
        fail(__FILE__, __LINE__, "told in state %u", state);
    }
    CHECK_EQ(decision->ticket, p->ticket);
    CHECK(decision->verdict == ALTA_AUTH_ALLOW || decision->verdict == ALTA_AUTH_DENY);
    p->told++;
    if (decision->flags & ALTA_AUTH_LAST) {
        end(p, ENDED, 0);
    } else if (p->called && p->cancels_at == p->told) {
        CHECK_EQ(alta_auth_cancel(p->in->engine, p->ticket), ALTA_AUTH_OK); /* from inside always */
        end(p, CANCELLED, 2);
    }
    atomic_store(&p->inside, false);
}

static void reap_some(worker *w) {
    alta_auth_completion done[32];
    alta_auth_completion blank = ALTA_AUTH_COMPLETION_INIT;
    for (size_t n = 1; n > 0;) {
        done[0] = blank;
        n = alta_auth_queue_reap(w->queue, done, 32);
        for (size_t i = 0; i < n; i++) {
            on_chaos(done[i].user_data, &done[i].decision);
        }
    }
}

static void cancel_one(worker *w, place *p) {
    if (!atomic_load(&p->published)) {
        return;
    }
    int32_t status = alta_auth_cancel(w->in->engine, p->ticket);
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_NOT_FOUND);
    if (status == ALTA_AUTH_OK) {
        CHECK(!atomic_load(&p->inside));
        end(p, CANCELLED, 1);
    }
}

/* Its own, or one in callback mode of another worker: what is in a queue only its reaper may know about. */
static void cancel_any(worker *w) {
    world *in = w->in;
    size_t of = next_random(&w->random) % 3 ? w->index : (next_random(&w->random) % (WORKERS / 2)) * 2 + 1;
    size_t count = atomic_load(&in->opened[of]);
    if (count > 0) {
        size_t back = next_random(&w->random) % (count < 64 ? count : 64);
        cancel_one(w, &in->places[of][count - 1 - back]);
    }
}

static void revoke_any(worker *w) {
    world *in = w->in;
    uint64_t what = next_random(&w->random) % 200;
    const char *session = in->sessions[next_random(&w->random) % SESSIONS];
    int32_t status = what == 0  ? alta_auth_revoke_all(in->engine)
                     : what < 5 ? alta_auth_revoke_user(in->engine, alta_auth_str_of(what < 3 ? "few" : "many"))
                                : alta_auth_revoke(in->engine, alta_auth_str_of(session));
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_CLOSED);
}

static void open_one(worker *w, place *p) {
    static const char *const queries[] = {"token=123", "token=flaps", "token=flaps", "token=brief",
                                          "token=slow", "token=few",  "token=many",  "token=9"};
    world *in = w->in;
    alta_auth_request request =
        ask(in->sessions[next_random(&w->random) % SESSIONS], queries[next_random(&w->random) % 8]);
    request.flags = next_random(&w->random) % 16 == 0 ? ALTA_AUTH_FRESH : 0;
    p->in = in;
    p->called = w->index % 2 == 1;
    p->cancels_at = next_random(&w->random) % 3; /* 0: not inside its callback */
    int32_t status = p->called ? alta_auth_watch(in->engine, &request, on_chaos, p, &p->ticket)
                               : alta_auth_queue_watch(w->queue, &request, p, &p->ticket);
    if (status == ALTA_AUTH_OK) {
        atomic_fetch_or(&p->state, OPENED);
        atomic_store(&p->published, true);
        atomic_fetch_add(&in->opened[w->index], 1);
        if (next_random(&w->random) % 16 == 0) {
            cancel_one(w, p); /* at once: it is just being decided */
        }
    } else {
        CHECK(status == ALTA_AUTH_ERR_FULL || status == ALTA_AUTH_ERR_CLOSED);
        CHECK_EQ(p->ticket, 0);
    }
}

static void *work(void *context) {
    worker *w = context;
    world *in = w->in;
    for (size_t i = 0; i < in->per_worker; i++) {
        open_one(w, &in->places[w->index][atomic_load(&in->opened[w->index])]);
        if (next_random(&w->random) % 4 == 0) {
            cancel_any(w);
        }
        if (next_random(&w->random) % 8 == 0) {
            revoke_any(w);
        }
        if (w->queue && next_random(&w->random) % 4 == 0) {
            reap_some(w);
        }
        if (next_random(&w->random) % 2 == 0) {
            pass_ms(1); /* so that watches live through a few answers */
        }
        if (atomic_fetch_add(&in->attempts, 1) + 1 == in->per_worker * WORKERS / 2) {
            gate_open(in->half);
        }
    }
    return NULL;
}

/* The backends change their minds and the engine its configuration, until the end. */
static void *disturb(void *context) {
    world *in = context;
    static const reply minds[] = {{.status = 200, .headers = "X-UserId: many\r\n"},
                                  {.status = 403},
                                  {.kind = REPLY_RESET},
                                  {.status = 200},
                                  {.kind = REPLY_CLOSE}};
    for (size_t i = 0; !atomic_load(&in->over); i++) {
        backend_rule(in->b, "flaps", minds[i % 5]);
        backend_rule(in->other, "flaps", minds[(i + 2) % 5]);
        if (i % 4 == 3) {
            char error[256] = "";
            alta_auth_config *config =
                config_with(backend_url(i % 8 == 3 ? in->other : in->b), "threads.io", "2", "threads.callback", "2",
                            "watch.interval", "20ms", "watch.max", "200", "pool.max_connections", "64",
                            "sessions.enforce", i % 12 == 3 ? "newest" : "oldest", "last_known",
                            i % 16 == 3 ? "1s" : "0", NULL);
            int32_t status = alta_auth_engine_reload(in->engine, config, error, sizeof error);
            if (status != ALTA_AUTH_OK) {
                if (status != ALTA_AUTH_ERR_CLOSED) {
                    fail(__FILE__, __LINE__, "reload: %d %s", (int)status, error);
                }
                alta_auth_config_free(config);
            }
        }
        alta_auth_stats stats = stats_of(in->engine);
        CHECK_EQ(stats.submitted, 0); /* no watch is a check */
        pass_ms(10);
    }
    return NULL;
}

static void give_rules(backend *b) {
    reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: many\r\n"};
    reply brief = {.status = 200, .headers = "X-AuthDuration: 1\r\n"};
    reply slow = {.status = 200, .delay_ms = 15};
    reply few = {.status = 200, .headers = "X-AuthDuration: 1\r\nX-UserId: few\r\nX-Max-Sessions: 3\r\n"};
    backend_rule(b, "123", remembered);
    backend_rule(b, "many", remembered);
    backend_rule(b, "brief", brief);
    backend_rule(b, "slow", slow);
    backend_rule(b, "few", few);
}

/* Of cancels inside a busy machine may leave none: those have cases of their own. */
static bool ended_in_both_ways(void *context) {
    world *in = context;
    return atomic_load(&in->ends[0]) > 0 && atomic_load(&in->ends[1]) > 0;
}

CASE(watches_end_exactly_once_under_chaos) {
    static world in;
    in.b = backend_start();
    in.other = backend_start();
    give_rules(in.b);
    give_rules(in.other);
    in.engine = engine_with(backend_url(in.b), "threads.io", "2", "threads.callback", "2", "watch.interval", "20ms",
                            "watch.max", "200", "sessions.enforce", "oldest", "pool.max_connections", "64", NULL);
    in.per_worker = parameter("CONTRACT_CHECKS", 100000) / 10 / WORKERS;
    in.half = gate_new();
    for (size_t i = 0; i < SESSIONS; i++) {
        snprintf(in.sessions[i], sizeof in.sessions[i], "s%zu", i);
    }
    static worker workers[WORKERS];
    pthread_t threads[WORKERS], disturber;
    for (size_t i = 0; i < WORKERS; i++) {
        in.places[i] = calloc(in.per_worker, sizeof *in.places[i]);
        CHECK(in.places[i] != NULL);
        worker w = {&in, i, 0x9E3779B97F4A7C15U + i, i % 2 ? NULL : queue_on(in.engine)};
        workers[i] = w;
    }
    for (size_t i = 0; i < WORKERS; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
    CHECK(pthread_create(&disturber, NULL, disturb, &in) == 0);
    CHECK(gate_wait_while(in.half, &in.attempts));
    CHECK(*run_under() || eventually(ended_in_both_ways, &in)); /* a tool leaves too little chaos */
    int32_t status = alta_auth_engine_shutdown(in.engine, 5);
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_TIMEOUT);
    for (size_t i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    atomic_store(&in.over, true);
    pthread_join(disturber, NULL);
    for (size_t i = 0; i < WORKERS; i += 2) {
        reap_some(&workers[i]); /* each last is in its queue since the shutdown */
        alta_auth_queue_free(workers[i].queue);
    }
    alta_auth_engine_free(in.engine);
    size_t opened = 0;
    for (size_t i = 0; i < WORKERS; i++) {
        for (size_t k = 0; k < in.per_worker; k++) {
            unsigned char state = atomic_load(&in.places[i][k].state);
            if (state != 0 && state != (OPENED | ENDED) && state != (OPENED | CANCELLED)) {
                fail(__FILE__, __LINE__, "worker %zu, watch %zu: state %u", i, k, state);
            }
            CHECK((state != 0) == (k < atomic_load(&in.opened[i])));
            opened += (state & OPENED) != 0;
        }
        free(in.places[i]);
    }
    size_t ends = 0;
    for (size_t i = 0; i < 3; i++) {
        ends += atomic_load(&in.ends[i]);
    }
    CHECK_EQ(opened, ends);
    gate_free(in.half);
    backend_stop(in.b);
    backend_stop(in.other);
}
