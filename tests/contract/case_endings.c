/* drain, shutdown and free, in every order. */
#define _GNU_SOURCE
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply held = {.status = 200, .hold = true};

enum { PENDING = 5 };

typedef struct scene {
    backend *b;
    alta_auth_engine *engine;
    sink to;
    seen places[PENDING];
    char sessions[PENDING][8];
    gate *over;
    int32_t status;
} scene;

/* An engine with PENDING checks in callback mode whose answers are held back. */
static scene *scene_new(const char *default_action) {
    scene *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->b = backend_start();
    backend_rule(s->b, "held", held);
    s->engine = engine_with(backend_url(s->b), "default_action", default_action, NULL);
    s->over = gate_new();
    sink_init(&s->to);
    for (size_t i = 0; i < PENDING; i++) {
        snprintf(s->sessions[i], sizeof s->sessions[i], "s%zu", i);
        seen_init(&s->places[i], &s->to);
        alta_auth_request request = ask(s->sessions[i], "token=held");
        CHECK_EQ(alta_auth_submit(s->engine, &request, on_decision, &s->places[i], &s->places[i].ticket),
                 ALTA_AUTH_OK);
    }
    CHECK(backend_wait_requests(s->b, "held", PENDING));
    return s;
}

static void scene_end(scene *s) {
    sink_destroy(&s->to);
    gate_free(s->over);
    backend_stop(s->b);
    free(s);
}

static void check_shut_down(scene *s, int32_t verdict) {
    CHECK_EQ(sink_count(&s->to), PENDING);
    for (size_t i = 0; i < PENDING; i++) {
        CHECK_EQ(s->places[i].times, 1);
        CHECK_EQ(s->places[i].decision.cause, ALTA_AUTH_CAUSE_SHUTDOWN);
        CHECK_EQ(s->places[i].decision.origin, ALTA_AUTH_ORIGIN_DEFAULT);
        CHECK_EQ(s->places[i].decision.verdict, verdict);
    }
}

CASE(free_completes_what_is_pending) {
    for (int allow = 0; allow <= 1; allow++) {
        scene *s = scene_new(allow ? "allow" : "deny");
        alta_auth_engine_free(s->engine);
        check_shut_down(s, allow ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY); /* all before free has returned */
        backend_release(s->b, "held");
        scene_end(s);
    }
}

CASE(shutdown_completes_the_rest_at_its_deadline) {
    scene *s = scene_new("deny");
    uint64_t before = now_ns();
    CHECK_EQ(alta_auth_engine_shutdown(s->engine, 200), ALTA_AUTH_ERR_TIMEOUT);
    CHECK(now_ns() - before >= 200000000U);
    check_shut_down(s, ALTA_AUTH_DENY);
    alta_auth_stats stats = stats_of(s->engine);
    CHECK_EQ(stats.completed, PENDING);
    CHECK_EQ(stats.causes[ALTA_AUTH_CAUSE_SHUTDOWN], PENDING);
    check_sums(&stats);
    CHECK_EQ(alta_auth_engine_shutdown(s->engine, 0), ALTA_AUTH_OK); /* nothing is pending any more */
    alta_auth_engine_free(s->engine);
    scene_end(s);
}

static void *shut_down(void *context) {
    scene *s = context;
    s->status = alta_auth_engine_shutdown(s->engine, (uint32_t)deadline_ms());
    gate_open(s->over);
    return NULL;
}

static bool is_closed(void *context) {
    scene *s = context;
    alta_auth_request request = ask("probe", "token=123");
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    return alta_auth_lookup(s->engine, &request, &decision) == ALTA_AUTH_ERR_CLOSED;
}

CASE(shutdown_waits_for_answers) {
    scene *s = scene_new("deny");
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, shut_down, s) == 0);
    CHECK(eventually(is_closed, s)); /* it stops accepting at once ... */
    CHECK_EQ(sink_count(&s->to), 0);
    backend_release(s->b, "held");
    CHECK(gate_wait(s->over));
    CHECK_EQ(s->status, ALTA_AUTH_OK);
    for (size_t i = 0; i < PENDING; i++) { /* ... and lets the answers in that come in time */
        CHECK_EQ(s->places[i].times, 1);
        CHECK_EQ(s->places[i].decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
        CHECK_EQ(s->places[i].decision.verdict, ALTA_AUTH_ALLOW);
    }
    pthread_join(thread, NULL);
    alta_auth_engine_free(s->engine);
    scene_end(s);
}

CASE(two_shutdowns_wait_alike) {
    scene *s = scene_new("deny");
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, shut_down, s) == 0);
    CHECK(eventually(is_closed, s));
    uint64_t before = now_ns();
    int32_t second = alta_auth_engine_shutdown(s->engine, 100);
    CHECK_EQ(second, ALTA_AUTH_ERR_TIMEOUT);
    CHECK(now_ns() - before >= 100000000U);
    CHECK(gate_wait(s->over)); /* the shorter of the two deadlines has completed them */
    check_shut_down(s, ALTA_AUTH_DENY);
    pthread_join(thread, NULL);
    alta_auth_engine_free(s->engine);
    scene_end(s);
}

CASE(after_shutdown) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), "default_action", "allow", NULL);
    alta_auth_queue *queue = queue_on(engine);
    sink to;
    sink_init(&to);
    seen place;
    seen_init(&place, &to);
    uint64_t tickets[2] = {0, 0}, untouched = 77;
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=123");
    CHECK_EQ(alta_auth_queue_submit(queue, &one, NULL, &tickets[0]), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(queue, &two, NULL, &tickets[1]), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    /* What is decided but not reaped does not keep a shutdown waiting, nor does the shutdown take it away. */
    CHECK_EQ(alta_auth_engine_shutdown(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    CHECK_EQ(alta_auth_submit(engine, &one, on_decision, &place, &untouched), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(alta_auth_queue_submit(queue, &one, NULL, &untouched), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(alta_auth_check(engine, &one, &decision), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(alta_auth_lookup(engine, &one, &decision), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(untouched, 77);
    CHECK_EQ(alta_auth_cancel(engine, tickets[0]), ALTA_AUTH_OK);
    alta_auth_completion done = ALTA_AUTH_COMPLETION_INIT;
    CHECK_EQ(alta_auth_queue_reap(queue, &done, 1), 1);
    CHECK_EQ(done.decision.ticket, tickets[1]);
    CHECK_EQ(done.decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    alta_auth_stats stats = stats_of(engine);
    CHECK_EQ(stats.pending, 0);
    check_sums(&stats);
    CHECK(alta_auth_metrics_text(engine, NULL, 0) > 0);
    CHECK_EQ(alta_auth_default_action(engine), ALTA_AUTH_ALLOW);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_engine_drain(engine, 0), ALTA_AUTH_OK);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(sink_count(&to), 0);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(shutdown_completes_into_queues) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held");
    CHECK_EQ(alta_auth_queue_submit(queue, &request, &request, NULL), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_ERR_TIMEOUT);
    alta_auth_completion done = ALTA_AUTH_COMPLETION_INIT;
    CHECK(readable(alta_auth_queue_fd(queue), 0));
    CHECK_EQ(alta_auth_queue_reap(queue, &done, 1), 1);
    CHECK(done.user_data == &request);
    CHECK_EQ(done.decision.cause, ALTA_AUTH_CAUSE_SHUTDOWN);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(drain_polls_and_waits) {
    scene *s = scene_new("deny");
    uint64_t before = now_ns();
    CHECK_EQ(alta_auth_engine_drain(s->engine, 0), ALTA_AUTH_ERR_TIMEOUT);
    CHECK_EQ(alta_auth_engine_drain(s->engine, 100), ALTA_AUTH_ERR_TIMEOUT);
    CHECK(now_ns() - before >= 100000000U);
    CHECK_EQ(sink_count(&s->to), 0); /* it completes nothing itself */
    backend_release(s->b, "held");
    CHECK_EQ(alta_auth_engine_drain(s->engine, UINT32_MAX), ALTA_AUTH_OK);
    CHECK_EQ(sink_count(&s->to), PENDING);
    alta_auth_request request = ask("after", "token=123");
    CHECK_EQ(check_ok(s->engine, &request).verdict, ALTA_AUTH_ALLOW); /* and does not stop submits */
    CHECK_EQ(alta_auth_engine_drain(s->engine, 0), ALTA_AUTH_OK);
    alta_auth_engine_free(s->engine);
    scene_end(s);
}

CASE(drain_does_not_wait_for_reap) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=123");
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    CHECK_EQ(stats_of(engine).pending, 1);
    alta_auth_completion done = ALTA_AUTH_COMPLETION_INIT;
    CHECK_EQ(alta_auth_queue_reap(queue, &done, 1), 1); /* decided means: already in the queue */
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

typedef struct pause {
    gate *inside, *go_on;
} pause;

static void on_pause(void *user_data, const alta_auth_decision *decision) {
    pause *p = user_data;
    CHECK(decision != NULL);
    gate_open(p->inside);
    CHECK(gate_wait(p->go_on));
}

CASE(drain_waits_until_the_callback_has_returned) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    pause p = {gate_new(), gate_new()};
    alta_auth_request request = ask("s", "token=123");
    CHECK_EQ(alta_auth_submit(engine, &request, on_pause, &p, NULL), ALTA_AUTH_OK);
    CHECK(gate_wait(p.inside));
    CHECK_EQ(alta_auth_engine_drain(engine, 0), ALTA_AUTH_ERR_TIMEOUT);
    CHECK_EQ(alta_auth_engine_drain(engine, 50), ALTA_AUTH_ERR_TIMEOUT);
    gate_open(p.go_on);
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    alta_auth_engine_free(engine);
    gate_free(p.inside);
    gate_free(p.go_on);
    backend_stop(b);
}

/* Each of the ways to end an engine with two queues, pending and unreaped checks. */
CASE(every_order_of_endings) {
    static const char *const orders[] = {"E12", "1E2", "12E", "SE12", "S12E", "DS1E2", "1S2E", "21SDE", "ES"};
    for (size_t o = 0; o < sizeof orders / sizeof *orders; o++) {
        backend *b = backend_start();
        backend_rule(b, "held", held);
        alta_auth_engine *engine = engine_with(backend_url(b), NULL);
        alta_auth_queue *queues[2] = {queue_on(engine), queue_on(engine)};
        for (size_t q = 0; q < 2; q++) {
            alta_auth_request unreaped = ask("u", "token=123"), pending = ask("p", "token=held");
            CHECK_EQ(alta_auth_queue_submit(queues[q], &unreaped, NULL, NULL), ALTA_AUTH_OK);
            CHECK(readable(alta_auth_queue_fd(queues[q]), deadline_ms()));
            CHECK_EQ(alta_auth_queue_submit(queues[q], &pending, NULL, NULL), ALTA_AUTH_OK);
        }
        for (const char *step = orders[o]; *step; step++) {
            if (*step == 'E') {
                alta_auth_engine_free(engine);
                engine = NULL;
            } else if (*step == 'S' && engine) {
                CHECK(alta_auth_engine_shutdown(engine, 0) != ALTA_AUTH_ERR_INVALID);
            } else if (*step == 'D') {
                CHECK(alta_auth_engine_drain(engine, 0) != ALTA_AUTH_ERR_INVALID);
            } else if (*step != 'S') {
                alta_auth_queue_free(queues[*step - '1']);
                queues[*step - '1'] = NULL;
            }
        }
        alta_auth_queue_free(queues[0]);
        alta_auth_queue_free(queues[1]);
        backend_stop(b);
    }
}
