/* sessions.enforce: how many sessions of one user are let in, and which one is refused. */
#define _GNU_SOURCE
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LASTS "X-AuthDuration: 600\r\n"
static const reply two_of_42 = {.status = 200, .headers = LASTS "X-UserId: user-42\r\nX-Max-Sessions: 2\r\n"};
static const reply two_of_43 = {.status = 200, .headers = LASTS "X-UserId: user-43\r\nX-Max-Sessions: 2\r\n"};

/* A backend that knows two users by their tokens, and an engine. */
static backend *users(void) {
    backend *b = backend_start();
    backend_rule(b, "42", two_of_42);
    backend_rule(b, "43", two_of_43);
    return b;
}

static int32_t verdict_of(alta_auth_engine *engine, const char *session, const char *query) {
    alta_auth_request request = ask(session, query);
    return check_ok(engine, &request).verdict;
}

/* What a host that asks memory first would let in: nobody who is refused. */
static bool is_let_in_by_lookup(alta_auth_engine *engine, const char *session, const char *query) {
    alta_auth_request request = ask(session, query);
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    return alta_auth_lookup(engine, &request, &decision) == ALTA_AUTH_OK && decision.verdict == ALTA_AUTH_ALLOW;
}

CASE(session_limits_are_only_reported_by_default) {
    backend *b = users();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    static const char *const sessions[] = {"s1", "s2", "s3", "s4"};
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s0", "token=42");
    open_watch(engine, &request, &v);
    CHECK_EQ(told(&v, 1).max_sessions, 2);
    for (size_t i = 0; i < 4; i++) {
        request = ask(sessions[i], "token=42");
        alta_auth_decision decision = check_ok(engine, &request);
        CHECK_EQ(decision.verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(decision.max_sessions, 2);
        CHECK(text_is(decision.user_id, "user-42"));
    }
    CHECK_EQ(told_count(&v), 1);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(newest_session_over_the_limit_is_refused) {
    backend *b = users();
    alta_auth_engine *engine = engine_with(backend_url(b), "sessions.enforce", "newest", NULL);
    CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_ALLOW);
    CHECK_EQ(verdict_of(engine, "s2", "token=42"), ALTA_AUTH_ALLOW);
    for (int i = 0; i < 3; i++) { /* the third, as often as it asks; the others stay */
        CHECK_EQ(verdict_of(engine, "s3", "token=42"), ALTA_AUTH_DENY);
        CHECK(!is_let_in_by_lookup(engine, "s3", "token=42"));
        CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_ALLOW);
        CHECK_EQ(verdict_of(engine, "s2", "token=42"), ALTA_AUTH_ALLOW);
        CHECK(is_let_in_by_lookup(engine, "s1", "token=42"));
    }
    alta_auth_request fresh = ask("s3", "token=42"), elsewhere = ask("s3", "token=42");
    fresh.flags = ALTA_AUTH_FRESH;
    elsewhere.path = alta_auth_str_of("/other/index.m3u8");
    CHECK_EQ(check_ok(engine, &fresh).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(check_ok(engine, &elsewhere).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(verdict_of(engine, "t1", "token=43"), ALTA_AUTH_ALLOW); /* another user's are untouched */
    CHECK_EQ(verdict_of(engine, "t2", "token=43"), ALTA_AUTH_ALLOW);
    CHECK_EQ(verdict_of(engine, "t3", "token=43"), ALTA_AUTH_DENY);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(oldest_session_over_the_limit_is_displaced) {
    backend *b = users();
    alta_auth_engine *engine = engine_with(backend_url(b), "sessions.enforce", "oldest", "sessions.idle", "1s", NULL);
    viewer neighbour;
    viewer_init(&neighbour);
    alta_auth_request other = ask("t1", "token=43"), fresh = ask("s1", "token=42");
    open_watch(engine, &other, &neighbour);
    CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_ALLOW);
    CHECK_EQ(verdict_of(engine, "s2", "token=42"), ALTA_AUTH_ALLOW);
    uint64_t before = now_ns();
    CHECK_EQ(verdict_of(engine, "s3", "token=42"), ALTA_AUTH_ALLOW);
    if (now_ns() - before > 500000000U) { /* s1 may have gone by itself: nothing to see on this machine now */
        alta_auth_engine_free(engine);
        backend_stop(b);
        return;
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_DENY);
        CHECK(!is_let_in_by_lookup(engine, "s1", "token=42"));
    }
    pass_ms(1500); /* not even when the others have gone idle: its decision has not ended */
    CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_DENY);
    fresh.path = alta_auth_str_of("/other/index.m3u8");
    CHECK_EQ(check_ok(engine, &fresh).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(verdict_of(engine, "s2", "token=42"), ALTA_AUTH_ALLOW); /* its asking has displaced nobody */
    CHECK_EQ(verdict_of(engine, "s3", "token=42"), ALTA_AUTH_ALLOW);
    CHECK_EQ(told(&neighbour, 1).verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(verdict_of(engine, "t2", "token=43"), ALTA_AUTH_ALLOW);
    CHECK_EQ(told_count(&neighbour), 1);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(unique_alone_means_one_session) {
    backend *b = backend_start();
    reply unique = {.status = 200, .headers = LASTS "X-UserId: user-42\r\nX-Unique: true\r\n"};
    backend_rule(b, "42", unique);
    for (int oldest = 0; oldest <= 1; oldest++) {
        alta_auth_engine *engine =
            engine_with(backend_url(b), "sessions.enforce", oldest ? "oldest" : "newest", NULL);
        CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_ALLOW);
        CHECK_EQ(verdict_of(engine, "s2", "token=42"), oldest ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY);
        CHECK_EQ(verdict_of(engine, "s1", "token=42"), oldest ? ALTA_AUTH_DENY : ALTA_AUTH_ALLOW);
        alta_auth_engine_free(engine);
    }
    backend_stop(b);
}

CASE(what_takes_no_place_of_a_user) {
    backend *b = backend_start();
    reply one = {.status = 200, .headers = LASTS "X-UserId: user-42\r\nX-Max-Sessions: 1\r\n"};
    reply no = {.status = 403, .headers = "X-UserId: user-42\r\nX-Max-Sessions: 1\r\n"};
    reply of_nobody = {.status = 200, .headers = LASTS "X-Max-Sessions: 1\r\n"};
    reply unlimited = {.status = 200, .headers = LASTS "X-UserId: user-44\r\n"};
    backend_rule(b, "42", one);
    backend_rule(b, "no", no);
    backend_rule(b, "nobody", of_nobody);
    backend_rule(b, "44", unlimited);
    alta_auth_engine *engine = engine_with(backend_url(b), "sessions.enforce", "newest", NULL);
    CHECK_EQ(verdict_of(engine, "refused", "token=no"), ALTA_AUTH_DENY); /* whom the backend refuses */
    CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_ALLOW);
    static const char *const paths[] = {"/a/1.ts", "/a/2.ts", "/b/index.m3u8"};
    alta_auth_request request = ask("s1", "token=42");
    for (size_t i = 0; i < 3; i++) { /* the same session, whatever it plays */
        request.path = alta_auth_str_of(paths[i]);
        CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    }
    viewer views[2];
    for (size_t i = 0; i < 2; i++) { /* and however many connections it has */
        viewer_init(&views[i]);
        open_watch(engine, &request, &views[i]);
        CHECK_EQ(told(&views[i], 1).verdict, ALTA_AUTH_ALLOW);
    }
    CHECK_EQ(verdict_of(engine, "s2", "token=42"), ALTA_AUTH_DENY);
    static const char *const sessions[] = {"n1", "n2", "n3"};
    for (size_t i = 0; i < 3; i++) { /* without a user, without a limit */
        CHECK_EQ(verdict_of(engine, sessions[i], "token=nobody"), ALTA_AUTH_ALLOW);
        CHECK_EQ(verdict_of(engine, sessions[i], "token=44"), ALTA_AUTH_ALLOW);
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- many at once ---- */

static void all_at_once(const char *who, bool held_back) {
    enum { ALL = 12 };
    backend *b = users();
    reply late = two_of_42;
    late.hold = held_back;
    backend_rule(b, "42", late);
    alta_auth_engine *engine = engine_with(backend_url(b), "sessions.enforce", who, "threads.io", "2", NULL);
    alta_auth_queue *queue = queue_on(engine);
    char sessions[ALL][8];
    for (size_t i = 0; i < ALL; i++) {
        snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
        alta_auth_request request = ask(sessions[i], "token=42");
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    }
    if (held_back) {
        CHECK(backend_wait_requests(b, "42", ALL));
        backend_release(b, "42");
    }
    alta_auth_completion done[ALL];
    reap_all(queue, done, ALL);
    size_t first = 0, second = 0;
    for (size_t i = 0; i < ALL; i++) {
        first += done[i].decision.verdict == ALTA_AUTH_ALLOW;
        second += verdict_of(engine, sessions[i], "token=42") == ALTA_AUTH_ALLOW;
    }
    CHECK(*who == 'o' || first == 2);
    CHECK_EQ(second, 2);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(exactly_as_many_sessions_of_those_that_come_at_once) {
    all_at_once("newest", false);
    all_at_once("newest", true);
    all_at_once("oldest", false);
    all_at_once("oldest", true);
}

/* ---- watches ---- */

CASE(displaced_sessions_watch_is_told_its_last) {
    backend *b = users();
    alta_auth_engine *engine = engine_with(backend_url(b), "sessions.enforce", "oldest", NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer one, also_one, two, three, neighbour;
    viewer *const all[] = {&one, &also_one, &two, &three, &neighbour};
    for (size_t i = 0; i < 5; i++) {
        viewer_init(all[i]);
    }
    alta_auth_request s1 = ask("s1", "token=42"), s2 = ask("s2", "token=42"), s3 = ask("s3", "token=42"),
                      t1 = ask("t1", "token=43");
    open_watch(engine, &t1, &neighbour);
    open_watch(engine, &s1, &one);
    told(&one, 1);
    open_queue_watch(queue, &s1, &also_one); /* a session may have several */
    told_by(queue, &also_one, 1);
    open_watch(engine, &s2, &two);
    CHECK_EQ(told(&two, 1).verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(told_count(&one), 1);
    open_watch(engine, &s3, &three);
    CHECK_EQ(told(&three, 1).verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(told_last(&one).verdict, ALTA_AUTH_DENY);
    while (!also_one.over) {
        told_by(queue, &also_one, told_count(&also_one) + 1);
    }
    CHECK_EQ(told(&also_one, 2).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(alta_auth_cancel(engine, one.ticket), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_DENY);
    CHECK_EQ(verdict_of(engine, "s2", "token=42"), ALTA_AUTH_ALLOW);
    CHECK_EQ(verdict_of(engine, "s4", "token=42"), ALTA_AUTH_ALLOW); /* a check displaces a watch just so */
    CHECK_EQ(told_last(&two).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(verdict_of(engine, "s3", "token=42"), ALTA_AUTH_ALLOW);
    cancel_ok(engine, &three);
    cancel_ok(engine, &neighbour);
    CHECK_EQ(told_count(&one), 2);
    CHECK_EQ(told_count(&three), 1);
    CHECK_EQ(told_count(&neighbour), 1);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

typedef struct newcomers {
    alta_auth_engine *engine;
    size_t count;
    char session[24];
} newcomers;

/* Each time another session: one that was refused before is no newcomer. */
static bool is_let_in(void *context) {
    newcomers *n = context;
    snprintf(n->session, sizeof n->session, "new%zu", n->count++);
    return verdict_of(n->engine, n->session, "token=42") == ALTA_AUTH_ALLOW;
}

CASE(a_watch_holds_its_place_until_it_ends) {
    for (int revoked = 0; revoked <= 1; revoked++) {
        backend *b = users();
        alta_auth_engine *engine =
            engine_with(backend_url(b), "sessions.enforce", "newest", "sessions.idle", "1s", NULL);
        viewer one, two, refused;
        viewer_init(&one);
        viewer_init(&two);
        viewer_init(&refused);
        alta_auth_request s1 = ask("s1", "token=42"), s2 = ask("s2", "token=42"), s3 = ask("s3", "token=42");
        open_watch(engine, &s1, &one);
        open_watch(engine, &s2, &two);
        CHECK_EQ(told(&one, 1).verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(told(&two, 1).verdict, ALTA_AUTH_ALLOW);
        open_watch(engine, &s3, &refused);
        CHECK_EQ(told(&refused, 1).verdict, ALTA_AUTH_DENY);
        newcomers n = {.engine = engine};
        pass_ms(2500); /* well over sessions.idle */
        CHECK(!is_let_in(&n));
        if (revoked) {
            CHECK_EQ(alta_auth_revoke(engine, s1.session_id), ALTA_AUTH_OK);
            CHECK_EQ(told_last(&one).verdict, ALTA_AUTH_DENY);
        } else {
            cancel_ok(engine, &one);
        }
        CHECK(eventually(is_let_in, &n));
        CHECK(!is_let_in(&n));
        CHECK_EQ(told_count(&two), 1);
        alta_auth_engine_free(engine);
        backend_stop(b);
    }
}

CASE(a_session_without_a_watch_holds_its_place_until_it_is_idle) {
    backend *b = users();
    alta_auth_engine *engine = engine_with(backend_url(b), "sessions.enforce", "newest", "sessions.idle", "1s", NULL);
    newcomers n = {.engine = engine};
    CHECK_EQ(verdict_of(engine, "s1", "token=42"), ALTA_AUTH_ALLOW);
    CHECK_EQ(verdict_of(engine, "s2", "token=42"), ALTA_AUTH_ALLOW);
    uint64_t start = now_ns(), last = start;
    bool slept = false;
    while (now_ns() - start < 2500000000U) { /* as long as its player asks */
        uint64_t asks = now_ns();
        bool one = verdict_of(engine, "s1", "token=42") == ALTA_AUTH_ALLOW;
        bool another = is_let_in(&n);
        bool two = verdict_of(engine, "s2", "token=42") == ALTA_AUTH_ALLOW;
        slept = now_ns() - last > 900000000U;
        if (slept) {
            not_tested("slept for nearly sessions.idle"); /* whoever came may have been let in by then */
            break;
        }
        CHECK(one && two && !another);
        last = asks;
        pass_ms(20);
    }
    CHECK(eventually(is_let_in, &n)); /* and then not any more */
    CHECK(slept || now_ns() - last >= 500000000U); /* to the millisecond by a unit test; a turn's clock may be behind */
    alta_auth_engine_free(engine);
    backend_stop(b);
}
