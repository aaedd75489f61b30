/* How a watch ends: cancel, revocation, shutdown, free. After its end nothing is told. */
#define _GNU_SOURCE
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-42\r\n"};
static const reply other_user = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-43\r\n"};
static const reply allowed = {.status = 200}, refused = {.status = 403}, held = {.status = 200, .hold = true};

#define OFTEN "watch.interval", "20ms"

/* ---- cancel ---- */

CASE(cancelled_watch_tells_nothing_more) {
    backend *b = backend_start();
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer *called = malloc(sizeof *called), *reaped = malloc(sizeof *reaped), twin;
    CHECK(called && reaped);
    viewer_init(called);
    viewer_init(reaped);
    viewer_init(&twin);
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=123"), three = ask("c", "token=123");
    open_watch(engine, &one, called);
    open_queue_watch(queue, &two, reaped);
    open_watch(engine, &three, &twin);
    told(called, 1);
    told_by(queue, reaped, 1);
    told(&twin, 1);
    cancel_ok(engine, called);
    CHECK_EQ(cancel_watch(engine, reaped), ALTA_AUTH_OK);
    uint64_t tickets[] = {called->ticket, reaped->ticket};
    viewer_destroy(called);
    viewer_destroy(reaped);
    free(called); /* their user_data is never used again */
    free(reaped);
    backend_rule(b, "123", refused);
    told(&twin, 2); /* the others go on */
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(alta_auth_cancel(engine, tickets[i]), ALTA_AUTH_ERR_NOT_FOUND);
    }
    CHECK_EQ(reap_told(queue), 0);
    cancel_ok(engine, &twin);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&twin), 2);
    backend_stop(b);
}

CASE(cancel_before_a_watchs_first_decision) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer called, reaped;
    viewer_init(&called);
    viewer_init(&reaped);
    alta_auth_request request = ask("s", "token=held"), next = ask("n", "token=123");
    open_watch(engine, &request, &called);
    open_queue_watch(queue, &request, &reaped);
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK_EQ(cancel_watch(engine, &called), ALTA_AUTH_OK);
    CHECK_EQ(cancel_watch(engine, &reaped), ALTA_AUTH_OK);
    backend_release(b, "held");
    check_ok(engine, &next);
    CHECK_EQ(reap_told(queue), 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&called), 0);
    backend_stop(b);
}

CASE(cancel_of_a_watchs_unreaped_completion) {
    backend *b = backend_start();
    backend_rule(b, "123", allowed);
    backend_rule(b, "twin", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer first, later, last, twin;
    viewer_init(&first);
    viewer_init(&later);
    viewer_init(&last);
    viewer_init(&twin);
    alta_auth_request a = ask("a", "token=123"), z = ask("z", "token=twin"), c = ask("c", "token=twin");
    open_queue_watch(queue, &a, &later);
    told_by(queue, &later, 1);
    backend_rule(b, "123", refused);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms())); /* the change */
    CHECK_EQ(cancel_watch(engine, &later), ALTA_AUTH_OK);
    CHECK_EQ(reap_told(queue), 0);
    open_queue_watch(queue, &a, &first);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms())); /* the first decision */
    CHECK_EQ(cancel_watch(engine, &first), ALTA_AUTH_OK);
    CHECK_EQ(reap_told(queue), 0);
    open_queue_watch(queue, &c, &last);
    open_queue_watch(queue, &z, &twin);
    told_by(queue, &last, 1);
    told_by(queue, &twin, 1);
    CHECK_EQ(alta_auth_revoke(engine, c.session_id), ALTA_AUTH_OK);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms())); /* the last: NOT_FOUND is for one that has ended */
    int32_t status = cancel_watch(engine, &last);
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(reap_told(queue), status == ALTA_AUTH_OK ? 0 : 1); /* one of the two, never both */
    CHECK_EQ(told_count(&twin), 1);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

static void cancel_inside(viewer *v, const alta_auth_decision *decision) {
    if (decision->verdict == ALTA_AUTH_DENY) {
        CHECK_EQ(cancel_watch(v->context, v), ALTA_AUTH_OK);
        CHECK_EQ(alta_auth_cancel(v->context, v->ticket), ALTA_AUTH_ERR_NOT_FOUND);
    }
}

static void cancels_inside(const char *callback_threads) {
    backend *b = backend_start();
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, "threads.callback", callback_threads, NULL);
    viewer at_first, at_change, twin;
    viewer_init(&at_first);
    viewer_init(&at_change);
    viewer_init(&twin);
    at_first.context = at_change.context = engine;
    at_first.during = at_change.during = cancel_inside;
    alta_auth_request one = ask("a", "token=9"), two = ask("b", "token=123"), three = ask("c", "token=123");
    open_watch(engine, &one, &at_first);
    open_watch(engine, &two, &at_change);
    open_watch(engine, &three, &twin);
    told(&at_first, 1);
    told(&at_change, 1);
    told(&twin, 1);
    backend_rule(b, "123", refused);
    told(&at_change, 2);
    told(&twin, 2);
    backend_rule(b, "123", allowed);
    told(&twin, 3);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&at_first), 1);
    CHECK_EQ(told_count(&at_change), 2);
    CHECK_EQ(told_count(&twin), 4);
    backend_stop(b);
}

CASE(cancel_of_a_watch_inside_its_own_callback) {
    cancels_inside("1");
    cancels_inside("0");
}

typedef struct pause {
    gate *inside, *go_on;
    int32_t at; /* the verdict at which to stay */
} pause;

static void stay_inside(viewer *v, const alta_auth_decision *decision) {
    pause *p = v->context;
    if (!(decision->flags & ALTA_AUTH_LAST) && decision->verdict == p->at) {
        gate_open(p->inside);
        CHECK(gate_wait(p->go_on));
    }
}

static void cancels_from_outside(size_t at, bool changed_meanwhile) {
    backend *b = backend_start();
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, "threads.callback", "2", NULL);
    pause p = {gate_new(), gate_new(), at == 1 ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY};
    viewer v;
    viewer_init(&v);
    v.context = &p;
    v.during = stay_inside;
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    told(&v, 1);
    if (at == 2) {
        backend_rule(b, "123", refused);
    }
    CHECK(gate_wait(p.inside));
    if (changed_meanwhile) {
        backend_rule(b, "123", other_user);
        asked_again(b, "123", 1);
    }
    CHECK_EQ(cancel_watch(engine, &v), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, v.ticket), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(told_count(&v), at); /* one call at a time */
    gate_open(p.go_on);
    told_last(&v);
    CHECK_EQ(told_count(&v), at + 1); /* exactly one more */
    CHECK_EQ(alta_auth_cancel(engine, v.ticket), ALTA_AUTH_ERR_NOT_FOUND);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&v), at + 1);
    gate_free(p.inside);
    gate_free(p.go_on);
    backend_stop(b);
}

CASE(cancel_of_a_watch_while_its_callback_runs) {
    cancels_from_outside(1, false);
    cancels_from_outside(1, true);
    cancels_from_outside(2, false);
}

/* ---- revocation ---- */

typedef enum by { SESSION, USER, ALL } by;

static void revoke_by(alta_auth_engine *engine, by what, const char *session) {
    CHECK_EQ(what == SESSION ? alta_auth_revoke(engine, alta_auth_str_of(session))
             : what == USER  ? alta_auth_revoke_user(engine, alta_auth_str_of("user-42"))
                             : alta_auth_revoke_all(engine),
             ALTA_AUTH_OK);
}

/* Watches in both modes: two questions of the session, one of another session of the same user, one of another user. */
static void revocation_is_told_at_once(by what) {
    enum { WATCHES = 8 };
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    backend_rule(b, "43", other_user);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    static viewer views[WATCHES];
    static const char *const sessions[] = {"s", "s", "t", "u"}, *const queries[] = {"token=123", "token=123&x=1",
                                                                                   "token=123", "token=43"};
    for (size_t i = 0; i < WATCHES; i++) {
        viewer_init(&views[i]);
        alta_auth_request request = ask(sessions[i / 2], queries[i / 2]);
        if (i % 2) {
            open_queue_watch(queue, &request, &views[i]);
            told_by(queue, &views[i], 1);
        } else {
            open_watch(engine, &request, &views[i]);
            told(&views[i], 1);
        }
    }
    size_t asked = backend_requests(b, NULL);
    revoke_by(engine, what, "s");
    size_t ended = what == SESSION ? 4 : what == USER ? 6 : 8;
    for (size_t i = 0; i < ended; i++) {
        alta_auth_decision decision = i % 2 ? told_by(queue, &views[i], 2) : told(&views[i], 2);
        CHECK_EQ(decision.verdict, ALTA_AUTH_DENY);
        CHECK(decision.flags & ALTA_AUTH_LAST);
        CHECK_EQ(alta_auth_cancel(engine, views[i].ticket), ALTA_AUTH_ERR_NOT_FOUND);
    }
    for (size_t i = ended; i < WATCHES; i++) { /* the neighbours are open, and were told nothing */
        CHECK_EQ(told_count(&views[i]), 1);
        cancel_ok(engine, &views[i]);
    }
    CHECK_EQ(backend_requests(b, NULL) - backend_requests(b, "settles"), asked); /* nobody had to be asked for it */
    CHECK_EQ(reap_told(queue), 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    for (size_t i = 0; i < WATCHES; i++) {
        CHECK_EQ(told_count(&views[i]), i < ended ? 2 : 1);
    }
    backend_stop(b);
}

CASE(revoke_tells_the_sessions_watches_at_once) {
    revocation_is_told_at_once(SESSION);
}

CASE(revoke_user_tells_the_users_watches_at_once) {
    revocation_is_told_at_once(USER);
}

CASE(revoke_all_tells_all_watches_at_once) {
    revocation_is_told_at_once(ALL);
}

CASE(revoke_replaces_what_a_watch_has_in_the_queue) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer v, w;
    viewer_init(&v);
    viewer_init(&w);
    alta_auth_request request = ask("s", "token=123"), denied = ask("s", "token=9");
    open_queue_watch(queue, &request, &v);
    open_queue_watch(queue, &denied, &w); /* denied already: the last is told all the same */
    told_by(queue, &w, 1);
    CHECK(backend_wait_requests(b, "123", 1));
    check_ok(engine, &request); /* it has been decided, reaped or not */
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    while (!v.over || !w.over) {
        CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
        reap_told(queue);
    }
    CHECK_EQ(told(&v, told_count(&v)).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(told(&w, 2).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(reap_told(queue), 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoke_while_a_watch_is_asked_about) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=held"), next = ask("n", "token=123");
    open_watch(engine, &request, &v);
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    alta_auth_decision decision = told(&v, 1); /* while the backend still keeps its answer back */
    CHECK_EQ(decision.verdict, ALTA_AUTH_DENY);
    CHECK(decision.flags & ALTA_AUTH_LAST);
    backend_release(b, "held");
    check_ok(engine, &next);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&v), 1);
    backend_stop(b);
}

static void revoke_itself(viewer *v, const alta_auth_decision *decision) {
    if (!(decision->flags & ALTA_AUTH_LAST)) {
        CHECK_EQ(alta_auth_revoke(v->context, alta_auth_str_of("s")), ALTA_AUTH_OK);
    }
}

CASE(revoke_inside_a_watchs_own_callback) {
    for (int threads = 0; threads <= 2; threads++) {
        backend *b = backend_start();
        char text[] = "0";
        text[0] = (char)('0' + threads);
        alta_auth_engine *engine = engine_with(backend_url(b), "threads.callback", text, NULL);
        viewer v;
        viewer_init(&v);
        v.context = engine;
        v.during = revoke_itself;
        alta_auth_request request = ask("s", "token=123");
        open_watch(engine, &request, &v);
        CHECK_EQ(told_last(&v).verdict, ALTA_AUTH_DENY); /* after the first has returned: on_told sees to that */
        alta_auth_engine_free(engine);
        CHECK_EQ(told_count(&v), 2);
        backend_stop(b);
    }
}

static void obey_the_rules(viewer *v, const alta_auth_decision *decision) {
    alta_auth_engine *engine = v->context;
    alta_auth_request request = ask("x", "token=123");
    alta_auth_decision out = ALTA_AUTH_DECISION_INIT;
    CHECK(decision != NULL);
    CHECK_EQ(alta_auth_engine_drain(engine, 0), ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_ERR_THREAD);
    CHECK_EQ(alta_auth_check(engine, &request, &out), ALTA_AUTH_ERR_THREAD);
    alta_auth_engine_free(engine); /* refused */
    stats_of(engine);
    CHECK_EQ(alta_auth_lookup(engine, &request, &out), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_revoke_user(engine, alta_auth_str_of("nobody")), ALTA_AUTH_OK);
    uint64_t ticket = 0;
    static viewer another;
    viewer_init(&another);
    if (!(decision->flags & ALTA_AUTH_LAST)) {
        CHECK_EQ(alta_auth_watch(engine, &request, on_told, &another, &ticket), ALTA_AUTH_OK);
        CHECK_EQ(alta_auth_cancel(engine, ticket), ALTA_AUTH_OK);
    }
}

CASE(callback_rules_in_a_watchs_callback) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    viewer v;
    viewer_init(&v);
    v.context = engine;
    v.during = obey_the_rules;
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    told(&v, 1);
    cancel_ok(engine, &v);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
