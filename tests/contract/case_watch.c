/* Watches: the first decision, each change of it, and silence where nothing has changed. */
#define _GNU_SOURCE
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-42\r\n"};
static const reply brief = {.status = 200, .headers = "X-AuthDuration: 1\r\n"};
static const reply allowed = {.status = 200}, refused = {.status = 403}, reset = {.kind = REPLY_RESET};

/* Decisions without a time of their own are asked for again this often. */
#define OFTEN "watch.interval", "20ms"

/* ---- the first decision ---- */

CASE(watch_tells_the_first_decision) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer called, reaped, no;
    viewer_init(&called);
    viewer_init(&reaped);
    viewer_init(&no);
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=123"), bad = ask("c", "token=9");
    open_watch(engine, &one, &called);
    alta_auth_decision first = told(&called, 1);
    check_told(&first, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    CHECK_EQ(first.http_status, 200);
    CHECK(first.latency_ns > 0);
    CHECK(first.ttl_ms > 500000 && first.ttl_ms <= 600000);
    CHECK(text_is(first.user_id, "user-42"));
    CHECK(!pthread_equal(called.by, pthread_self())); /* on a thread of the library */
    open_queue_watch(queue, &two, &reaped);
    first = told_by(queue, &reaped, 1);
    check_told(&first, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    CHECK(text_is(first.user_id, "user-42"));
    open_queue_watch(queue, &bad, &no);
    first = told_by(queue, &no, 1);
    check_told(&first, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0); /* and stays open */
    cancel_ok(engine, &no);
    CHECK_EQ(backend_requests(b, "123"), 2);
    char head[4096];
    backend_last_request(b, "123", head, sizeof head);
    CHECK(strstr(head, "\r\nX-Session-Id: b\r\n") && strstr(head, "\r\nX-Real-Path: /live/index.m3u8\r\n"));
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(watch_tells_what_is_remembered) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer views[3];
    alta_auth_request request = ask("s", "token=123"), fresh = request;
    fresh.flags = ALTA_AUTH_FRESH;
    check_ok(engine, &request);
    for (size_t i = 0; i < 3; i++) {
        viewer_init(&views[i]);
    }
    open_watch(engine, &request, &views[0]);
    alta_auth_decision first = told(&views[0], 1);
    CHECK(!pthread_equal(views[0].by, pthread_self())); /* never from inside the call */
    check_told(&first, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_MEMORY, ALTA_AUTH_CAUSE_NONE, 0);
    CHECK(text_is(first.user_id, "user-42"));
    open_queue_watch(queue, &request, &views[1]);
    first = told_by(queue, &views[1], 1);
    check_told(&first, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_MEMORY, ALTA_AUTH_CAUSE_NONE, 0);
    CHECK_EQ(backend_requests(b, NULL), 1);
    open_queue_watch(queue, &fresh, &views[2]);
    first = told_by(queue, &views[2], 1);
    check_told(&first, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    CHECK_EQ(backend_requests(b, NULL), 2);
    /* What a watch was told is remembered for checks, too. */
    CHECK_EQ(check_ok(engine, &request).origin, ALTA_AUTH_ORIGIN_MEMORY);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(watch_timeout_ms_does_not_apply) {
    backend *b = backend_start();
    reply slow = {.status = 200, .delay_ms = 200};
    backend_rule(b, "123", slow);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    request.timeout_ms = 1;
    open_watch(engine, &request, &v);
    alta_auth_decision first = told(&v, 1);
    check_told(&first, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- changes ---- */

/* allow, deny, allow: each told once, in this order, whatever makes the watch be asked about again. */
static void changes_are_told(bool in_queue, bool with_ttl, const char *callback_threads) {
    backend *b = backend_start();
    reply no = refused, yes = with_ttl ? brief : allowed;
    no.headers = with_ttl ? "X-AuthDuration: 1\r\n" : NULL;
    backend_rule(b, "123", yes);
    alta_auth_engine *engine = engine_with(backend_url(b), "watch.interval", with_ttl ? "30s" : "20ms",
                                           "threads.callback", callback_threads, NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    if (in_queue) {
        open_queue_watch(queue, &request, &v);
    } else {
        open_watch(engine, &request, &v);
    }
    for (size_t n = 1; n <= 3; n++) {
        bool allows = n % 2 == 1;
        backend_rule(b, "123", allows ? yes : no);
        alta_auth_decision decision = in_queue ? told_by(queue, &v, n) : told(&v, n);
        check_told(&decision, allows ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE,
                   0);
        CHECK_EQ(decision.http_status, allows ? 200 : 403);
    }
    cancel_ok(engine, &v);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&v), 3);
    viewer_destroy(&v);
    backend_stop(b);
}

CASE(watch_tells_each_change_when_the_ttl_ends) {
    changes_are_told(false, true, "1");
}

CASE(watch_tells_each_change_after_the_interval) {
    changes_are_told(false, false, "1");
}

CASE(watch_tells_each_change_without_callback_threads) {
    changes_are_told(false, false, "0");
}

CASE(queue_watch_tells_each_change_when_the_ttl_ends) {
    changes_are_told(true, true, "1");
}

CASE(queue_watch_tells_each_change_after_the_interval) {
    changes_are_told(true, false, "1");
}

CASE(watch_asks_when_the_ttl_ends_and_not_before) {
    backend *b = backend_start();
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, NULL); /* the interval is not for it */
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    uint64_t before = now_ns();
    open_watch(engine, &request, &v);
    told(&v, 1);
    CHECK(backend_wait_requests(b, "123", 3));
    CHECK(now_ns() - before >= 2000000000U);
    CHECK_EQ(told_count(&v), 1);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&v), 2); /* the other is the last */
    backend_stop(b);
}

CASE(watch_without_a_change_is_silent) {
    backend *b = backend_start();
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer called, reaped;
    viewer_init(&called);
    viewer_init(&reaped);
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=9");
    open_watch(engine, &one, &called);
    open_queue_watch(queue, &two, &reaped);
    told_by(queue, &reaped, 1);
    asked_again(b, "123", 5);
    asked_again(b, "9", 5);
    CHECK_EQ(told_count(&called), 1);
    CHECK_EQ(reap_told(queue), 0);
    cancel_ok(engine, &reaped);
    cancel_ok(engine, &called);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&called), 1);
    backend_stop(b);
}

CASE(what_counts_as_a_change_of_a_watch) {
    backend *b = backend_start();
    static const reply said[] = {
        {.status = 200, .headers = "X-UserId: one\r\n"},
        {.status = 200, .headers = "X-UserId: two\r\n"},
        {.status = 200, .headers = "X-UserId: two\r\nX-Max-Sessions: 3\r\n"},
        {.status = 200, .headers = "X-UserId: two\r\nX-Max-Sessions: 3\r\nX-Unique: true\r\n"},
        {.status = 403, .headers = "X-UserId: two\r\nX-Max-Sessions: 3\r\nX-Unique: true\r\n"},
        {.status = 403, .headers = "X-UserId: two\r\nX-Max-Sessions: 3\r\nX-Unique: true\r\nX-Location: /pay\r\n"},
    };
    backend_rule(b, "123", said[0]);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        backend_rule(b, "123", said[i]);
        alta_auth_decision decision = told(&v, i + 1);
        CHECK_EQ(decision.http_status, said[i].status);
        CHECK(text_is(decision.user_id, i == 0 ? "one" : "two"));
        CHECK_EQ(decision.max_sessions, i >= 2 ? 3 : 0);
        CHECK_EQ(decision.flags, i >= 3 ? ALTA_AUTH_UNIQUE : 0);
        CHECK(text_is(decision.location, i == 5 ? "/pay" : ""));
    }
    /* Another status with the same verdict, another body, another lifetime are none. */
    reply same = {.status = 404, .body = "x",
                  .headers = "X-UserId: two\r\nX-Max-Sessions: 3\r\nX-Unique: true\r\nX-Location: /pay\r\nX-A: b\r\n"};
    backend_rule(b, "123", same);
    asked_again(b, "123", 5);
    cancel_ok(engine, &v);
    CHECK_EQ(told_count(&v), sizeof said / sizeof *said);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(queue_watch_has_one_completion_and_the_latest_wins) {
    backend *b = backend_start();
    reply other = {.status = 200, .headers = "X-UserId: later\r\n"};
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer v;
    viewer_init(&v);
    v.lax = true;
    alta_auth_request request = ask("s", "token=123");
    open_queue_watch(queue, &request, &v);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    for (int i = 0; i < 3; i++) { /* nobody reaps meanwhile */
        backend_rule(b, "123", refused);
        asked_again(b, "123", 2);
        backend_rule(b, "123", other);
        asked_again(b, "123", 2);
    }
    CHECK_EQ(reap_told(queue), 1);
    alta_auth_decision decision = told(&v, 1);
    check_told(&decision, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    CHECK(text_is(decision.user_id, "later"));
    CHECK_EQ(reap_told(queue), 0);
    backend_rule(b, "123", refused); /* and it goes on */
    decision = told_by(queue, &v, 2);
    CHECK_EQ(decision.verdict, ALTA_AUTH_DENY);
    for (int i = 0; i < 3; i++) { /* back to where it was told: one at most, and that one true */
        backend_rule(b, "123", other);
        asked_again(b, "123", 2);
        backend_rule(b, "123", refused);
        asked_again(b, "123", 2);
    }
    CHECK(reap_told(queue) <= 1);
    CHECK_EQ(told(&v, told_count(&v)).verdict, ALTA_AUTH_DENY);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- outages ---- */

CASE(watch_in_an_outage_with_last_known_is_silent) {
    backend *b = backend_start();
    reply known = {.status = 200, .headers = "X-AuthDuration: 1\r\nX-UserId: user-42\r\n"};
    backend_rule(b, "123", known);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, "last_known", "10m", NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    told(&v, 1);
    backend_rule(b, "123", reset);
    asked_again(b, "123", 8);
    CHECK_EQ(told_count(&v), 1);
    backend_rule(b, "123", refused);
    alta_auth_decision decision = told(&v, 2); /* the backend is back, with another mind */
    check_told(&decision, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

static void outage_denies(const reply *yes) {
    backend *b = backend_start();
    backend_rule(b, "123", *yes);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, "unavailable_statuses", "503", NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer called, reaped;
    viewer_init(&called);
    viewer_init(&reaped);
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=123");
    open_watch(engine, &one, &called);
    open_queue_watch(queue, &two, &reaped);
    told(&called, 1);
    told_by(queue, &reaped, 1);
    reply unavailable = {.status = 503};
    backend_rule(b, "123", unavailable);
    alta_auth_decision decision = told(&called, 2);
    check_told(&decision, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_DEFAULT, ALTA_AUTH_CAUSE_STATUS, 0);
    decision = told_by(queue, &reaped, 2);
    check_told(&decision, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_DEFAULT, ALTA_AUTH_CAUSE_STATUS, 0);
    backend_rule(b, "123", reset); /* another cause is no change */
    asked_again(b, "123", 5);
    backend_rule(b, "123", *yes);
    decision = told(&called, 3);
    check_told(&decision, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    told_by(queue, &reaped, 3);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(watch_in_an_outage_is_told_the_default_deny_and_the_return) {
    outage_denies(&allowed);
    outage_denies(&brief);
}

CASE(watch_in_an_outage_with_the_default_allow_is_silent) {
    backend *b = backend_start();
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, "default_action", "allow", NULL);
    viewer v, first;
    viewer_init(&v);
    viewer_init(&first);
    alta_auth_request request = ask("s", "token=123"), other = ask("s2", "token=gone");
    open_watch(engine, &request, &v);
    told(&v, 1);
    backend_rule(b, "123", reset);
    asked_again(b, "123", 8);
    CHECK_EQ(told_count(&v), 1);
    backend_rule(b, "gone", reset); /* one that opens in the outage is told it */
    open_watch(engine, &other, &first);
    alta_auth_decision decision = told(&first, 1);
    check_told(&decision, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_DEFAULT, ALTA_AUTH_CAUSE_RESET, 0);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
