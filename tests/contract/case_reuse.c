/* How long and how much is remembered, as configured: refresh, expired, last_known, memory.max_*. */
#define _GNU_SOURCE
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
static const reply brief = {.status = 200, .headers = "X-AuthDuration: 1\r\n"};
static const reply refused = {.status = 403}, reset = {.kind = REPLY_RESET};

enum { SECOND = 1000 };

static int elapsed_ms(uint64_t since) {
    return (int)((now_ns() - since) / 1000000U);
}

static int32_t look(alta_auth_engine *engine, const alta_auth_request *request, alta_auth_decision *out) {
    alta_auth_decision blank = ALTA_AUTH_DECISION_INIT;
    *out = blank;
    return alta_auth_lookup(engine, request, out);
}

typedef struct looking {
    alta_auth_engine *engine;
    const alta_auth_request *request;
} looking;

static bool is_forgotten(void *context) {
    const looking *l = context;
    alta_auth_decision decision;
    return look(l->engine, l->request, &decision) == ALTA_AUTH_ERR_NOT_FOUND;
}

static bool is_denied(void *context) {
    const looking *l = context;
    return check_ok(l->engine, l->request).verdict == ALTA_AUTH_DENY;
}

/* ---- refresh ---- */

CASE(refresh_ahead_asks_once_in_the_background) {
    backend *b = backend_start();
    reply lasts = {.status = 200, .headers = "X-AuthDuration: 6\r\n"};
    backend_rule(b, "used", lasts);
    backend_rule(b, "unused", lasts);
    backend_rule(b, "looked", lasts);
    alta_auth_engine *engine = engine_with(backend_url(b), "refresh.ahead", "50%", NULL);
    alta_auth_request used = ask("a", "token=used"), unused = ask("b", "token=unused");
    alta_auth_request looked = ask("c", "token=looked");
    alta_auth_decision decision;
    uint64_t before = now_ns();
    check_ok(engine, &unused);
    check_ok(engine, &looked);
    check_ok(engine, &used);
    reply late = refused;
    late.hold = true;
    backend_rule(b, "used", late);
    bool asked = false, over = false;
    for (int served = 0; served < 10 && !over; served += asked) {
        alta_auth_decision old = check_ok(engine, &used);
        bool found = look(engine, &looked, &decision) == ALTA_AUTH_OK;
        asked = backend_requests(b, "used") > 1;
        int passed = elapsed_ms(before);
        over = passed >= 6 * SECOND;
        if (!over) {
            CHECK_EQ(old.origin, ALTA_AUTH_ORIGIN_MEMORY); /* the old one serves */
            CHECK_EQ(old.verdict, ALTA_AUTH_ALLOW);
            CHECK(found);
            CHECK(!asked || passed >= 3 * SECOND); /* when less than a half is left */
        }
        pass_ms(10);
    }
    if (over) {
        not_tested("what was remembered has ended before it was seen to serve");
    } else {
        CHECK_EQ(backend_requests(b, "used"), 2);   /* once */
        CHECK_EQ(backend_requests(b, "unused"), 1); /* what is not in use is not asked for */
        CHECK_EQ(backend_requests(b, "looked"), 1); /* a lookup asks nobody */
    }
    backend_release(b, "used");
    looking l = {engine, &used};
    CHECK(eventually(is_denied, &l)); /* its answer replaces what was remembered */
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(refresh_never_does_not_ask_before_the_end) {
    backend *b = backend_start();
    reply lasts = {.status = 200, .headers = "X-AuthDuration: 2\r\n"};
    backend_rule(b, "123", lasts);
    alta_auth_engine *engine = engine_with(backend_url(b), "refresh", "never", NULL);
    alta_auth_request request = ask("s", "token=123");
    uint64_t before = now_ns();
    check_ok(engine, &request);
    while (elapsed_ms(before) < 1800) {
        check_ok(engine, &request);
        size_t asked = backend_requests(b, "123");
        CHECK(asked == 1 || elapsed_ms(before) >= 2 * SECOND);
        pass_ms(10);
    }
    CHECK(backend_wait_requests(b, "123", 1));
    looking l = {engine, &request};
    CHECK(eventually(is_forgotten, &l));
    CHECK_EQ(check_ok(engine, &request).origin, ALTA_AUTH_ORIGIN_BACKEND);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- expired ---- */

CASE(expired_keep_extends_what_is_in_use) {
    backend *b = backend_start();
    backend_rule(b, "123", brief);
    reply brief_no = {.status = 403, .headers = "X-AuthDuration: 1\r\n"};
    backend_rule(b, "no", brief_no);
    alta_auth_engine *engine =
        engine_with(backend_url(b), "refresh", "never", "expired", "keep", "expired.idle", "2s", NULL);
    alta_auth_request request = ask("s", "token=123"), no = ask("n", "token=no");
    check_ok(engine, &no);
    check_ok(engine, &request);
    backend_rule(b, "123", refused); /* the token is dead from now on */
    uint64_t start = now_ns(), last = start;
    while (elapsed_ms(start) < 3500) {
        alta_auth_decision decision = check_ok(engine, &request);
        if (elapsed_ms(last) > 1800) {
            not_tested("slept for nearly expired.idle");
            alta_auth_engine_free(engine);
            backend_stop(b);
            return;
        }
        CHECK_EQ(decision.verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_MEMORY);
        last = now_ns();
        pass_ms(50);
    }
    CHECK_EQ(backend_requests(b, "123"), 1);
    check_ok(engine, &no);
    CHECK_EQ(backend_requests(b, "no"), 2); /* a refusal is not kept */
    pass_ms(3500); /* the session is not in use: neither for expired.idle nor for its time */
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(backend_requests(b, "123"), 2);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(expired_keep_does_not_survive_a_revocation) {
    backend *b = backend_start();
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), "refresh", "never", "expired", "keep", NULL);
    alta_auth_request request = ask("s", "token=123");
    uint64_t before = now_ns();
    check_ok(engine, &request);
    backend_rule(b, "123", refused);
    while (elapsed_ms(before) < 1500) {
        CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
        pass_ms(20);
    }
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(backend_requests(b, "123"), 2);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(expired_asks_by_default) {
    backend *b = backend_start();
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    backend_rule(b, "123", refused);
    looking l = {engine, &request};
    CHECK(eventually(is_denied, &l));
    CHECK_EQ(backend_requests(b, "123"), 2);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- last known ---- */

static bool is_default(void *context) {
    const looking *l = context;
    alta_auth_decision decision = check_ok(l->engine, l->request);
    CHECK(decision.origin == ALTA_AUTH_ORIGIN_DEFAULT || decision.verdict == ALTA_AUTH_ALLOW);
    return decision.origin == ALTA_AUTH_ORIGIN_DEFAULT;
}

CASE(last_known_ends) {
    backend *b = backend_start();
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), "last_known", "1s", NULL);
    alta_auth_request request = ask("s", "token=123");
    uint64_t before = now_ns();
    check_ok(engine, &request);
    backend_rule(b, "123", reset);
    looking l = {engine, &request};
    CHECK(eventually(is_default, &l)); /* remembered, known last, and then neither */
    CHECK(elapsed_ms(before) >= 2 * SECOND - 1);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(last_known_of_a_refusal_and_of_must_revalidate) {
    backend *b = backend_start();
    reply strict = {.status = 200, .headers = "Cache-Control: max-age=1, must-revalidate\r\n"};
    reply lax = {.status = 200, .headers = "Cache-Control: max-age=1\r\n"};
    backend_rule(b, "no", refused);
    backend_rule(b, "strict", strict);
    backend_rule(b, "lax", lax);
    alta_auth_engine *engine =
        engine_with(backend_url(b), "last_known", "10m", "default_action", "allow", NULL);
    alta_auth_request no = ask("a", "token=no"), must = ask("b", "token=strict"), may = ask("c", "token=lax");
    check_ok(engine, &no);
    check_ok(engine, &must);
    check_ok(engine, &may);
    looking l = {engine, &must}, m = {engine, &may};
    CHECK(eventually(is_forgotten, &l) && eventually(is_forgotten, &m));
    backend_rule(b, "no", reset);
    backend_rule(b, "strict", reset);
    backend_rule(b, "lax", reset);
    CHECK_EQ(check_ok(engine, &must).origin, ALTA_AUTH_ORIGIN_DEFAULT);
    CHECK_EQ(check_ok(engine, &may).origin, ALTA_AUTH_ORIGIN_LAST_KNOWN);
    alta_auth_decision decision = check_ok(engine, &no); /* what the backend last said comes before the default */
    CHECK_EQ(decision.verdict, ALTA_AUTH_DENY);
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_LAST_KNOWN);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- how much ---- */

CASE(memory_of_no_decision_asks_each_time) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), "memory.max_decisions", "0", NULL);
    alta_auth_request request = ask("s", "token=123");
    alta_auth_decision decision;
    for (size_t i = 1; i <= 3; i++) {
        CHECK_EQ(check_ok(engine, &request).origin, ALTA_AUTH_ORIGIN_BACKEND);
        CHECK_EQ(look(engine, &request, &decision), ALTA_AUTH_ERR_NOT_FOUND);
        CHECK_EQ(backend_requests(b, "123"), i);
    }
    CHECK_EQ(stats_of(engine).remembered, 0);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(memory_is_bounded_in_decisions_and_in_bytes) {
    enum { LONG = 900 };
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *few = engine_with(backend_url(b), "memory.max_decisions", "50", NULL);
    alta_auth_engine *small =
        engine_with(backend_url(b), "memory.max_decisions", "1000000", "memory.max_bytes", "1MiB", NULL);
    char session[LONG + 1];
    memset(session, 'x', LONG);
    session[LONG] = '\0';
    for (unsigned i = 0; i < 2000; i++) {
        session[snprintf(session, sizeof session, "%u", i)] = 'x';
        alta_auth_request request = ask(session, "token=123");
        CHECK_EQ(check_ok(small, &request).verdict, ALTA_AUTH_ALLOW);
        if (i < 300) {
            CHECK_EQ(check_ok(few, &request).verdict, ALTA_AUTH_ALLOW);
            CHECK(stats_of(few).remembered <= 50);
        }
    }
    CHECK(stats_of(few).remembered > 0);
    uint64_t kept = stats_of(small).remembered;
    CHECK(kept > 0 && kept * LONG <= 1024 * 1024);
    alta_auth_engine_free(few);
    alta_auth_engine_free(small);
    backend_stop(b);
}

CASE(at_most_64_decisions_of_one_session) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request other = ask("other", "token=123"), request = ask("s", "token=123");
    alta_auth_decision decision;
    check_ok(engine, &other);
    char path[32];
    for (unsigned i = 0; i < 200; i++) {
        snprintf(path, sizeof path, "/%u.ts", i);
        request.path = alta_auth_str_of(path);
        check_ok(engine, &request);
        CHECK_EQ(look(engine, &request, &decision), ALTA_AUTH_OK); /* the newest is among them */
    }
    CHECK_EQ(stats_of(engine).remembered, 65);
    CHECK_EQ(look(engine, &other, &decision), ALTA_AUTH_OK);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(a_flood_of_sessions_does_not_push_out_those_that_watch) {
    enum { WATCHING = 50, FLOOD = 3000, EVERY = 100 };
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    backend_rule(b, "flood", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), "memory.max_decisions", "500", NULL);
    char session[24];
    for (unsigned i = 0; i < FLOOD; i++) {
        for (unsigned w = 0; i % EVERY == 0 && w < WATCHING; w++) {
            snprintf(session, sizeof session, "watching%u", w);
            alta_auth_request request = ask(session, "token=123");
            check_ok(engine, &request);
        }
        snprintf(session, sizeof session, "flood%u", i);
        alta_auth_request request = ask(session, "token=flood");
        check_ok(engine, &request);
    }
    size_t asked = backend_requests(b, "123"), ideal = WATCHING, rounds = FLOOD / EVERY;
    if (asked > ideal + ideal * rounds / 10) { /* nine of ten of their checks cost nothing */
        fail(__FILE__, __LINE__, "%zu of %zu checks of those that watch were asked", asked, ideal * rounds);
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}
