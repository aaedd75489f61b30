/* What a callback may do and may not, and on which threads it runs. */
#define _GNU_SOURCE
#include "support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct inside {
    alta_auth_engine *engine, *other;
    alta_auth_queue *queue;
    gate *done, *second_done;
    uint64_t ticket;
    int32_t drain, shutdown, check, other_check, lookup, cancel_self, revoke, submit, stats;
    int32_t from_queue;
} inside;

static void on_second(void *user_data, const alta_auth_decision *decision) {
    inside *i = user_data;
    CHECK_EQ(decision->verdict, ALTA_AUTH_ALLOW);
    gate_open(i->second_done);
}

static void on_first(void *user_data, const alta_auth_decision *decision) {
    inside *i = user_data;
    alta_auth_request request = ask("inside", "token=123");
    alta_auth_decision out = ALTA_AUTH_DECISION_INIT;
    alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
    CHECK_EQ(decision->ticket, i->ticket);
    i->drain = alta_auth_engine_drain(i->engine, 0);
    i->shutdown = alta_auth_engine_shutdown(i->engine, 0);
    i->check = alta_auth_check(i->engine, &request, &out);
    alta_auth_engine_free(i->engine); /* refused and logged */
    i->other_check = i->other ? alta_auth_check(i->other, &request, &out) : ALTA_AUTH_OK;
    i->lookup = alta_auth_lookup(i->engine, &request, &out);
    i->cancel_self = alta_auth_cancel(i->engine, i->ticket);
    i->revoke = alta_auth_revoke(i->engine, request.session_id);
    i->stats = alta_auth_stats_read(i->engine, &stats);
    i->from_queue = alta_auth_queue_submit(i->queue, &request, NULL, NULL);
    i->submit = alta_auth_submit(i->engine, &request, on_second, i, NULL);
    gate_open(i->done);
}

typedef struct warned {
    pthread_mutex_t lock;
    size_t lines;
} warned;

static void count_lines(void *user_data, int32_t level, alta_auth_str message) {
    warned *w = user_data;
    CHECK(level <= ALTA_AUTH_LOG_WARN && message.len > 0);
    pthread_mutex_lock(&w->lock);
    w->lines++;
    pthread_mutex_unlock(&w->lock);
}

static void callback_rules(const char *callback_threads) {
    backend *b = backend_start();
    warned w = {PTHREAD_MUTEX_INITIALIZER, 0};
    alta_auth_config *config =
        config_with(backend_url(b), "threads.callback", callback_threads, "log.level", "warn", NULL);
    CHECK_EQ(alta_auth_config_set_log(config, count_lines, &w), ALTA_AUTH_OK);
    inside i = {.engine = engine_from(config), .done = gate_new(), .second_done = gate_new()};
    i.other = engine_with(backend_url(b), NULL);
    i.queue = queue_on(i.engine);
    alta_auth_request request = ask("outside", "token=123");
    CHECK_EQ(alta_auth_submit(i.engine, &request, on_first, &i, &i.ticket), ALTA_AUTH_OK);
    CHECK(gate_wait(i.done));
    CHECK(gate_wait(i.second_done));
    CHECK_EQ(i.drain, ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(i.shutdown, ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(i.check, ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(i.other_check, ALTA_AUTH_OK); /* the refusals concern the same engine only */
    CHECK_EQ(i.lookup, ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(i.cancel_self, ALTA_AUTH_ERR_NOT_FOUND); /* being delivered */
    CHECK_EQ(i.revoke, ALTA_AUTH_OK);
    CHECK_EQ(i.stats, ALTA_AUTH_OK);
    CHECK_EQ(i.submit, ALTA_AUTH_OK);
    CHECK_EQ(i.from_queue, ALTA_AUTH_OK);
    alta_auth_completion done;
    reap_all(i.queue, &done, 1); /* the refused free has left the engine alive */
    CHECK_EQ(check_ok(i.engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_queue_free(i.queue);
    alta_auth_engine_free(i.engine);
    alta_auth_engine_free(i.other);
    CHECK(w.lines > 0);
    pthread_mutex_destroy(&w.lock);
    gate_free(i.done);
    gate_free(i.second_done);
    backend_stop(b);
}

CASE(callback_rules_on_a_callback_thread) {
    callback_rules("1");
}

CASE(callback_rules_on_the_io_thread) {
    callback_rules("0");
}

/* ---- the log and the thread hooks are callbacks, too ---- */

typedef struct waiter {
    alta_auth_engine *_Atomic engine; /* NULL: not yet, or not any more */
    const char *from;                 /* in the name of the thread that is to ask; NULL: the host's own */
    pthread_t host;
    gate *asked;
    int32_t drain, shutdown, check;
} waiter;

/* What would wait for the thread that asks. */
static void ask_to_wait(waiter *w) {
    char name[16] = "";
    CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
    bool from_there = w->from ? strncmp(name, w->from, strlen(w->from)) == 0 : pthread_equal(w->host, pthread_self());
    alta_auth_engine *engine = from_there ? atomic_exchange(&w->engine, NULL) : NULL;
    if (!engine) {
        return;
    }
    alta_auth_request request = ask("inside", "token=123");
    alta_auth_decision out = ALTA_AUTH_DECISION_INIT;
    w->drain = alta_auth_engine_drain(engine, UINT32_MAX);
    w->shutdown = alta_auth_engine_shutdown(engine, 0);
    w->check = alta_auth_check(engine, &request, &out);
    alta_auth_engine_free(engine); /* refused */
    gate_open(w->asked);
}

static void wait_in_log(void *user_data, int32_t level, alta_auth_str message) {
    CHECK(level > 0 && message.len > 0);
    ask_to_wait(user_data);
}

static void wait_in_hook(void *user_data) {
    ask_to_wait(user_data);
}

static void wait_nowhere(waiter *w, alta_auth_engine *engine) {
    CHECK(gate_wait(w->asked));
    CHECK_EQ(w->drain, ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(w->shutdown, ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(w->check, ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
    alta_auth_engine_free(engine);
    gate_free(w->asked);
}

static void log_waits_nowhere(const char *url, const char *from) {
    waiter w = {.from = from, .asked = gate_new()};
    alta_auth_config *config = config_with(url, "log.level", "debug", NULL);
    CHECK_EQ(alta_auth_config_set_log(config, wait_in_log, &w), ALTA_AUTH_OK);
    alta_auth_engine *engine = engine_from(config);
    atomic_store(&w.engine, engine);
    alta_auth_request request = ask("outside", "token=123");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_DENY);
    wait_nowhere(&w, engine);
}

CASE(log_callback_waits_nowhere_on_the_io_thread) {
    log_waits_nowhere("http://127.0.0.1:1/auth", "alta-io-");
}

CASE(log_callback_waits_nowhere_on_the_resolvers_thread) {
    log_waits_nowhere("http://localhost:1/auth", "alta-dns");
}

CASE(log_callback_waits_nowhere_on_a_thread_of_the_host) {
    waiter w = {.host = pthread_self(), .asked = gate_new()};
    alta_auth_engine *engine = engine_with("http://127.0.0.1:1/auth", NULL);
    atomic_store(&w.engine, engine);
    /* A warning, in the middle of the reload. */
    alta_auth_config *config =
        config_with("https://127.0.0.1:1/auth", "tls.verify", "off", "log.level", "warn", NULL);
    CHECK_EQ(alta_auth_config_set_log(config, wait_in_log, &w), ALTA_AUTH_OK);
    char error[256] = "";
    if (alta_auth_engine_reload(engine, config, error, sizeof error) != ALTA_AUTH_OK) {
        fail(__FILE__, __LINE__, "%s", error);
    }
    wait_nowhere(&w, engine);
}

CASE(thread_hooks_wait_nowhere) {
    static const char *const threads[] = {"alta-io-", "alta-cb-"};
    for (size_t i = 0; i < 2; i++) {
        waiter w = {.from = threads[i], .asked = gate_new()};
        alta_auth_config *config = config_with("http://127.0.0.1:1/auth", NULL);
        CHECK_EQ(alta_auth_config_set_thread_hooks(config, NULL, wait_in_hook, &w), ALTA_AUTH_OK);
        alta_auth_engine *engine = engine_from(config);
        atomic_store(&w.engine, engine);
        CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK); /* the threads stop in it */
        wait_nowhere(&w, engine);
    }
}

/* ---- a slow callback holds up nobody else ---- */

typedef struct slow {
    gate *inside, *go_on;
} slow;

static void on_slow(void *user_data, const alta_auth_decision *decision) {
    slow *s = user_data;
    CHECK(decision != NULL);
    gate_open(s->inside);
    CHECK(gate_wait(s->go_on));
}

CASE(no_lock_is_held_in_a_callback) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    slow s = {gate_new(), gate_new()};
    alta_auth_request request = ask("slow", "token=123"), other = ask("other", "token=123");
    uint64_t ticket = 0, second = 0;
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    CHECK_EQ(alta_auth_submit(engine, &request, on_slow, &s, &ticket), ALTA_AUTH_OK);
    CHECK(gate_wait(s.inside));
    /* Callback threads are apart from I/O: queues and blocking checks go on, and so does every other call. */
    CHECK_EQ(alta_auth_queue_submit(queue, &other, NULL, &second), ALTA_AUTH_OK);
    alta_auth_completion done;
    reap_all(queue, &done, 1);
    CHECK_EQ(check_ok(engine, &other).verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(alta_auth_lookup(engine, &request, &decision), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, ticket), ALTA_AUTH_ERR_NOT_FOUND); /* and does not wait for it */
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    stats_of(engine);
    CHECK(alta_auth_metrics_text(engine, NULL, 0) > 0);
    alta_auth_queue *late = queue_on(engine);
    alta_auth_queue_free(late);
    gate_open(s.go_on);
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    gate_free(s.inside);
    gate_free(s.go_on);
    backend_stop(b);
}

CASE(free_waits_for_the_running_callback) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    sink to;
    sink_init(&to);
    enum { COUNT = 200 };
    seen *places = calloc(COUNT, sizeof *places);
    char sessions[COUNT][8];
    CHECK(places != NULL);
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
        seen_init(&places[i], &to);
        alta_auth_request request = ask(sessions[i], "token=123");
        CHECK_EQ(alta_auth_submit(engine, &request, on_decision, &places[i], &places[i].ticket), ALTA_AUTH_OK);
    }
    alta_auth_engine_free(engine);
    CHECK_EQ(sink_count(&to), COUNT); /* all were delivered, and none is delivered from here on: */
    free(places);                     /* a late one would be found by the sanitizers */
    sink_destroy(&to);
    backend_stop(b);
}

/* ---- thread hooks ---- */

typedef struct hooks {
    pthread_mutex_t lock;
    size_t started, stopped, callbacks;
} hooks;

static _Thread_local int hook_state; /* 1 between start and stop */

static void on_start(void *user_data) {
    hooks *h = user_data;
    CHECK_EQ(hook_state, 0);
    hook_state = 1;
    pthread_mutex_lock(&h->lock);
    h->started++;
    pthread_mutex_unlock(&h->lock);
}

static void on_stop(void *user_data) {
    hooks *h = user_data;
    CHECK_EQ(hook_state, 1);
    hook_state = 2;
    pthread_mutex_lock(&h->lock);
    h->stopped++;
    pthread_mutex_unlock(&h->lock);
}

static void on_hooked(void *user_data, const alta_auth_decision *decision) {
    CHECK_EQ(hook_state, 1);
    on_decision(user_data, decision);
}

static void on_hooked_log(void *user_data, int32_t level, alta_auth_str message) {
    char name[16] = "";
    CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
    CHECK(user_data && level > 0 && message.len > 0);
    CHECK_EQ(hook_state, strncmp(name, "alta-", 5) == 0);
}

/* How many threads there were. */
static size_t run_hooked(const char *callback_threads, bool named) {
    backend *b = backend_start();
    char url[256];
    const char *rest = strstr(backend_url(b), "127.0.0.1") + strlen("127.0.0.1");
    snprintf(url, sizeof url, "http://%s%s", named ? "localhost" : "127.0.0.1", rest);
    reply held = {.status = 200, .hold = true};
    backend_rule(b, "held", held);
    hooks h = {.lock = PTHREAD_MUTEX_INITIALIZER};
    alta_auth_config *config = config_with(url, "threads.callback", callback_threads, "log.level", "debug", NULL);
    CHECK_EQ(alta_auth_config_set_thread_hooks(config, on_start, on_stop, &h), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_config_set_log(config, on_hooked_log, &h), ALTA_AUTH_OK);
    CHECK_EQ(h.started, 0);
    alta_auth_engine *engine = engine_from(config);
    sink to;
    sink_init(&to);
    enum { COUNT = 40 };
    static seen places[COUNT + 1];
    char sessions[COUNT + 1][8];
    for (size_t i = 0; i <= COUNT; i++) {
        snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
        seen_init(&places[i], &to);
        alta_auth_request request = ask(sessions[i], i < COUNT ? "token=123" : "token=held");
        CHECK_EQ(alta_auth_submit(engine, &request, on_hooked, &places[i], &places[i].ticket), ALTA_AUTH_OK);
    }
    sink_wait(&to, COUNT);
    pthread_mutex_lock(&h.lock);
    CHECK_EQ(h.stopped, 0);
    pthread_mutex_unlock(&h.lock);
    alta_auth_engine_free(engine); /* delivers the held one: before the stop hooks */
    CHECK_EQ(sink_count(&to), COUNT + 1);
    CHECK(h.started > 0);
    CHECK_EQ(h.started, h.stopped);
    CHECK_EQ(hook_state, 0); /* on library threads only */
    pthread_mutex_destroy(&h.lock);
    sink_destroy(&to);
    backend_stop(b);
    return h.started;
}

CASE(thread_hooks_surround_the_callbacks) {
    run_hooked("1", false);
    run_hooked("3", false);
}

CASE(thread_hooks_without_callback_threads) {
    run_hooked("0", false);
}

CASE(thread_hooks_run_on_the_resolvers_thread) {
    CHECK_EQ(run_hooked("1", true), run_hooked("1", false) + 1);
}
