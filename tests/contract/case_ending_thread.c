/* A thread that is ending: what it may still call, in a destructor of pthread_key_create. */
#define _GNU_SOURCE
#include "support.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>

static const reply held = {.status = 200, .hold = true};
static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};

typedef struct last_moment {
    backend *backend;
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    pthread_key_t key;
} last_moment;

static void free_queue_of_thread(void *context) {
    alta_auth_queue_free(context);
}

/* Wakes an I/O thread that sleeps, so that all a thread has by that is there; then it ends with a check pending. */
static void *submit_and_end(void *context) {
    last_moment *m = context;
    CHECK_EQ(pthread_setspecific(m->key, m->queue), 0);
    alta_auth_request first = ask("first", "token=123"), second = ask("second", "token=held");
    CHECK_EQ(alta_auth_queue_submit(m->queue, &first, NULL, NULL), ALTA_AUTH_OK);
    CHECK(readable(alta_auth_queue_fd(m->queue), deadline_ms()));
    char threads[] = "alta-io-";
    CHECK(eventually(threads_sleep, threads));
    CHECK_EQ(alta_auth_queue_submit(m->queue, &second, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(m->backend, "held", 1));
    return NULL;
}

CASE(thread_that_is_ending_frees_its_queue) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    last_moment m = {.backend = b, .engine = engine_with(backend_url(b), NULL)};
    m.queue = queue_on(m.engine);
    CHECK_EQ(pthread_key_create(&m.key, free_queue_of_thread), 0);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, submit_and_end, &m), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    alta_auth_stats stats = stats_of(m.engine);
    CHECK_EQ(stats.pending, 0);
    CHECK_EQ(stats.cancelled, 2);
    alta_auth_request request = ask("after", "token=123");
    CHECK_EQ(check_ok(m.engine, &request).verdict, ALTA_AUTH_ALLOW); /* the I/O thread goes on */
    alta_auth_engine_free(m.engine);
    CHECK_EQ(pthread_key_delete(m.key), 0);
    backend_stop(b);
}

typedef struct last_calls {
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    pthread_key_t key;
    seen called[2];
} last_calls;

/* All that the thread had of the language's own has been destroyed by now. */
static void call_at_the_end(void *context) {
    last_calls *c = context;
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
    int32_t status = 77;
    uint64_t ticket = 0;
    alta_auth_request asked = ask("asked", "token=123"), known = ask("known", "token=123"), third = ask("third", "token=123");
    CHECK_EQ(alta_auth_submit(c->engine, &asked, on_decision, &c->called[0], &c->called[0].ticket), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_submit(c->engine, &known, on_decision, &c->called[1], &c->called[1].ticket), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(c->queue, &known, NULL, &ticket), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit_batch(c->queue, &third, 1, NULL, &status), 1);
    CHECK_EQ(status, ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_watch(c->queue, &known, NULL, &ticket), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_cancel(c->engine, ticket), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_revoke(c->engine, third.session_id), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_stats_read(c->engine, &stats), ALTA_AUTH_OK);
    CHECK_EQ(stats.submitted, 5);
    /* Their texts would have no place to be in. */
    CHECK_EQ(alta_auth_check(c->engine, &known, &decision), ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(alta_auth_lookup(c->engine, &known, &decision), ALTA_AUTH_ERR_THREAD);
}

static void *call_and_end(void *context) {
    last_calls *c = context;
    CHECK_EQ(pthread_setspecific(c->key, c), 0);
    alta_auth_request known = ask("known", "token=123");
    CHECK_EQ(check_ok(c->engine, &known).verdict, ALTA_AUTH_ALLOW);
    return NULL;
}

CASE(thread_that_is_ending_submits) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    sink to;
    sink_init(&to);
    last_calls c = {.engine = engine_with(backend_url(b), NULL)};
    c.queue = queue_on(c.engine);
    seen_init(&c.called[0], &to);
    seen_init(&c.called[1], &to);
    CHECK_EQ(pthread_key_create(&c.key, call_at_the_end), 0);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, call_and_end, &c), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    sink_wait(&to, 2);
    alta_auth_completion done[2];
    reap_all(c.queue, done, 2);
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(c.called[i].decision.verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(done[i].decision.verdict, ALTA_AUTH_ALLOW);
    }
    CHECK_EQ(stats_of(c.engine).submitted, 5); /* nothing was asked for what was refused */
    alta_auth_queue_free(c.queue);
    alta_auth_engine_free(c.engine);
    CHECK_EQ(pthread_key_delete(c.key), 0);
    sink_destroy(&to);
    backend_stop(b);
}

/* ---- the last round ---- */

enum { TO_COME = 32, CALLED = TO_COME + 1 };

typedef struct last_round {
    backend *backend;
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    pthread_key_t key;
    int round;
    sink to;
    seen called[CALLED];
    atomic_size_t reloads, ends;
    atomic_bool freed;
} last_round;

static void on_line(void *user_data, int32_t level, alta_auth_str line) {
    last_round *l = user_data;
    CHECK(!l->freed);
    CHECK(level <= ALTA_AUTH_LOG_INFO);
    l->reloads += text_has(line, "reload");
    l->ends += text_has(line, "shut down");
}

static void on_called(void *user_data, const alta_auth_decision *decision) {
    seen *s = user_data;
    CHECK(!((last_round *)((char *)s->to - offsetof(last_round, to)))->freed);
    on_decision(user_data, decision);
}

static alta_auth_config *logging(last_round *l) {
    alta_auth_config *config = config_with(backend_url(l->backend), "log.level", "info", NULL);
    CHECK_EQ(alta_auth_config_set_log(config, on_line, l), ALTA_AUTH_OK);
    return config;
}

/* A destructor that wants to be the last sets its value again. What the language keeps of the thread is gone then, too. */
static void free_engine_in_the_last_round(void *context) {
    last_round *l = context;
    if (++l->round < PTHREAD_DESTRUCTOR_ITERATIONS) {
        CHECK_EQ(pthread_setspecific(l->key, l), 0);
        return;
    }
    char error[256] = "";
    CHECK_EQ(alta_auth_engine_reload(l->engine, logging(l), error, sizeof error), ALTA_AUTH_OK);
    CHECK_EQ(l->reloads, 1);
    /* It is remembered, and wakes a callback thread. */
    alta_auth_request known = ask("known", "token=123");
    seen *hit = &l->called[TO_COME];
    CHECK_EQ(alta_auth_submit(l->engine, &known, on_called, hit, &hit->ticket), ALTA_AUTH_OK);
    sink_wait(&l->to, 1);
    alta_auth_completion told = ALTA_AUTH_COMPLETION_INIT;
    uint64_t watch = 0;
    CHECK_EQ(alta_auth_queue_watch(l->queue, &known, NULL, &watch), ALTA_AUTH_OK);
    reap_all(l->queue, &told, 1);
    CHECK_EQ(told.decision.verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(alta_auth_cancel(l->engine, watch), ALTA_AUTH_OK);
    alta_auth_queue_free(l->queue);
    alta_auth_engine_free(l->engine);
    l->freed = true;
    CHECK_EQ(sink_count(&l->to), CALLED);
    CHECK_EQ(l->ends, 1);
    CHECK_EQ(count_threads("alta-"), 0);
}

static void *make_engine_and_end(void *context) {
    last_round *l = context;
    l->engine = engine_from(logging(l));
    l->queue = queue_on(l->engine);
    CHECK_EQ(pthread_key_create(&l->key, free_engine_in_the_last_round), 0);
    CHECK_EQ(pthread_setspecific(l->key, l), 0);
    alta_auth_request known = ask("known", "token=123"), waits = ask("waits", "token=held");
    CHECK_EQ(check_ok(l->engine, &known).verdict, ALTA_AUTH_ALLOW);
    for (size_t i = 0; i < TO_COME; i++) {
        CHECK_EQ(alta_auth_submit(l->engine, &waits, on_called, &l->called[i], &l->called[i].ticket), ALTA_AUTH_OK);
    }
    return NULL;
}

CASE(thread_that_is_ending_frees_its_engine) {
    last_round l = {.backend = backend_start()};
    backend_rule(l.backend, "123", remembered);
    backend_rule(l.backend, "held", held);
    sink_init(&l.to);
    for (size_t i = 0; i < CALLED; i++) {
        seen_init(&l.called[i], &l.to);
    }
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, make_engine_and_end, &l), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(l.freed);
    for (size_t i = 0; i < CALLED; i++) {
        bool to_come = i < TO_COME;
        CHECK_EQ(l.called[i].decision.verdict, to_come ? ALTA_AUTH_DENY : ALTA_AUTH_ALLOW);
        CHECK_EQ(l.called[i].decision.cause, to_come ? ALTA_AUTH_CAUSE_SHUTDOWN : ALTA_AUTH_CAUSE_NONE);
    }
    CHECK_EQ(pthread_key_delete(l.key), 0);
    sink_destroy(&l.to);
    backend_stop(l.backend);
}
