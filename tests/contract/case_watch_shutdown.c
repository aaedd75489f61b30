/* Watches at the end of an engine or of a queue, in every order. */
#define _GNU_SOURCE
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
static const reply held = {.status = 200, .hold = true};

static void check_last(const alta_auth_decision *last, int32_t verdict) {
    CHECK_EQ(last->verdict, verdict);
    CHECK_EQ(last->cause, ALTA_AUTH_CAUSE_SHUTDOWN);
    CHECK_EQ(last->flags & ALTA_AUTH_LAST, ALTA_AUTH_LAST);
}

/* The default action is the other one each time: what is told is the verdict that held. */
static void last_is_told(bool by_free) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    backend_rule(b, "held", held);
    for (int allow = 0; allow <= 1; allow++) {
        alta_auth_engine *engine =
            engine_with(backend_url(b), "default_action", allow ? "deny" : "allow", NULL);
        viewer v, undecided;
        viewer_init(&v);
        viewer_init(&undecided);
        alta_auth_request request = ask("s", allow ? "token=123" : "token=9"), late = ask("l", "token=held");
        open_watch(engine, &request, &v);
        alta_auth_decision last = told(&v, 1);
        check_told(&last, allow ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
        size_t asked = backend_requests(b, "held");
        open_watch(engine, &late, &undecided);
        CHECK(backend_wait_requests(b, "held", asked + 1));
        if (by_free) {
            alta_auth_engine_free(engine);
        } else {
            CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK); /* a watch is not pending */
            told_last(&v);
            told_last(&undecided);
        }
        CHECK_EQ(told_count(&v), 2);
        CHECK_EQ(told_count(&undecided), 1);
        last = told(&v, 2);
        check_last(&last, allow ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY);
        last = told(&undecided, 1); /* nothing held: the default action */
        check_last(&last, allow ? ALTA_AUTH_DENY : ALTA_AUTH_ALLOW);
        if (!by_free) {
            CHECK_EQ(alta_auth_cancel(engine, v.ticket), ALTA_AUTH_ERR_NOT_FOUND);
            CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
            alta_auth_engine_free(engine);
        }
        CHECK_EQ(told_count(&v), 2);
        CHECK_EQ(told_count(&undecided), 1);
    }
    backend_stop(b);
}

CASE(shutdown_tells_watches_their_last) {
    last_is_told(false);
}

CASE(free_tells_watches_their_last_before_it_returns) {
    last_is_told(true);
}

CASE(shutdown_puts_the_last_into_queues) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer taken, unreaped, dropped;
    viewer_init(&taken);
    viewer_init(&unreaped);
    viewer_init(&dropped);
    alta_auth_request a = ask("a", "token=123"), c = ask("c", "token=9"), d = ask("d", "token=123");
    open_queue_watch(queue, &a, &taken);
    open_queue_watch(queue, &d, &dropped);
    told_by(queue, &taken, 1);
    told_by(queue, &dropped, 1);
    open_queue_watch(queue, &c, &unreaped);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    CHECK_EQ(cancel_watch(engine, &dropped), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
    while (!taken.over || !unreaped.over) { /* reap works after it */
        CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
        reap_told(queue);
    }
    alta_auth_decision last = told(&taken, 2);
    check_last(&last, ALTA_AUTH_ALLOW);
    last = told(&unreaped, told_count(&unreaped));
    check_last(&last, ALTA_AUTH_DENY);
    CHECK_EQ(told_count(&unreaped), 1); /* the decision that waited and the last became one */
    CHECK_EQ(reap_told(queue), 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(cancel_of_a_watch_after_shutdown) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer v, w;
    viewer_init(&v);
    viewer_init(&w);
    alta_auth_request request = ask("s", "token=123");
    open_queue_watch(queue, &request, &v);
    told_by(queue, &v, 1);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    int32_t status = cancel_watch(engine, &v); /* its last is in the queue: one or the other */
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(reap_told(queue), status == ALTA_AUTH_OK ? 0 : 1);
    uint64_t untouched = 77;
    CHECK_EQ(alta_auth_watch(engine, &request, on_told, &w, &untouched), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(alta_auth_queue_watch(queue, &request, &w, &untouched), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(untouched, 77);
    alta_auth_engine_free(engine);
    CHECK_EQ(alta_auth_queue_watch(queue, &request, &w, &untouched), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(untouched, 77);
    CHECK_EQ(told_count(&w), 0);
    alta_auth_queue_free(queue);
    backend_stop(b);
}

typedef struct opening {
    alta_auth_engine *engine;
    viewer *v;
} opening;

static bool opens(void *context) {
    opening *o = context;
    alta_auth_request request = ask("s", "token=123");
    int32_t status = alta_auth_watch(o->engine, &request, on_told, o->v, &o->v->ticket);
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_FULL);
    return status == ALTA_AUTH_OK;
}

CASE(queue_free_ends_its_watches) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), "watch.max", "2", "watch.interval", "20ms", NULL);
    alta_auth_queue *queue = queue_on(engine), *other = queue_on(engine);
    viewer decided, waiting, called, kept;
    viewer_init(&decided);
    viewer_init(&waiting);
    viewer_init(&called);
    viewer_init(&kept);
    alta_auth_request a = ask("a", "token=123"), c = ask("c", "token=9");
    open_queue_watch(queue, &a, &decided);
    told_by(queue, &decided, 1);
    open_queue_watch(queue, &c, &waiting);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    CHECK_EQ(alta_auth_queue_watch(other, &a, &kept, &kept.ticket), ALTA_AUTH_ERR_FULL);
    alta_auth_queue_free(queue);
    CHECK_EQ(alta_auth_cancel(engine, decided.ticket), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, waiting.ticket), ALTA_AUTH_ERR_NOT_FOUND);
    opening o = {engine, &called};
    CHECK(eventually(opens, &o)); /* their places are free */
    open_queue_watch(other, &a, &kept);
    told(&called, 1);
    told_by(other, &kept, 1);
    alta_auth_queue_free(other);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&decided), 1);
    CHECK_EQ(told_count(&waiting), 0);
    CHECK_EQ(told_count(&called), 2);
    backend_stop(b);
}

CASE(free_waits_for_a_watchs_running_callback) {
    for (int threads = 0; threads <= 2; threads++) {
        backend *b = backend_start();
        char text[] = "0";
        text[0] = (char)('0' + threads);
        alta_auth_engine *engine = engine_with(backend_url(b), "threads.callback", text, "watch.interval", "1ms",
                                               "watch.max_rate", "1000000", NULL);
        static viewer views[50];
        char sessions[50][8];
        for (size_t i = 0; i < 50; i++) { /* freed in the middle of first decisions and changes */
            viewer_init(&views[i]);
            snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
            alta_auth_request request = ask(sessions[i], "token=123");
            open_watch(engine, &request, &views[i]);
        }
        told(&views[0], 1);
        reply refused = {.status = 403};
        backend_rule(b, "123", refused);
        alta_auth_engine_free(engine);
        for (size_t i = 0; i < 50; i++) {
            CHECK(!atomic_load(&views[i].inside));
            CHECK(views[i].over);
            check_last(&views[i].told[views[i].count - 1], views[i].told[views[i].count - 1].verdict);
        }
        backend_stop(b);
    }
}

/* Each of the ways to end an engine with two queues, with watches undecided, unreaped, taken and called. */
CASE(every_order_of_endings_with_watches) {
    static const char *const orders[] = {"E12", "1E2", "12E", "SE12", "S12E", "DS1E2", "1S2E", "21SDE", "ES"};
    for (size_t o = 0; o < sizeof orders / sizeof *orders; o++) {
        backend *b = backend_start();
        backend_rule(b, "held", held);
        backend_rule(b, "123", remembered);
        alta_auth_engine *engine = engine_with(backend_url(b), NULL);
        alta_auth_queue *queues[2] = {queue_on(engine), queue_on(engine)};
        viewer in_queue[2][3], called[2];
        for (size_t q = 0; q < 2; q++) {
            static const char *const queries[] = {"token=123", "token=9", "token=held"};
            for (size_t i = 0; i < 3; i++) {
                alta_auth_request request = ask(q ? "one" : "two", queries[i]);
                viewer_init(&in_queue[q][i]);
                open_queue_watch(queues[q], &request, &in_queue[q][i]);
                if (i == 0) {
                    told_by(queues[q], &in_queue[q][i], 1);
                }
            }
            CHECK(readable(alta_auth_queue_fd(queues[q]), deadline_ms()));
            alta_auth_request request = ask("c", q ? "token=held" : "token=123");
            viewer_init(&called[q]);
            open_watch(engine, &request, &called[q]);
        }
        for (const char *step = orders[o]; *step; step++) {
            if (*step == 'E') {
                alta_auth_engine_free(engine);
                engine = NULL;
                CHECK(called[0].over && called[1].over);
            } else if (*step == 'S' && engine) {
                CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
            } else if (*step == 'D') {
                CHECK_EQ(alta_auth_engine_drain(engine, 0), ALTA_AUTH_OK);
            } else if (*step != 'S') {
                alta_auth_queue_free(queues[*step - '1']);
                queues[*step - '1'] = NULL;
            }
        }
        for (size_t q = 0; q < 2; q++) {
            if (queues[q]) { /* without its engine it reaps nothing */
                CHECK_EQ(reap_told(queues[q]), 0);
            }
            alta_auth_queue_free(queues[q]);
        }
        backend_stop(b);
    }
}
