/* What is remembered: lookup, FRESH, sharing, lifetimes, revoke. */
#include "support.h"

#include <stdio.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-42\r\n"};

static int32_t look(alta_auth_engine *engine, const alta_auth_request *request) {
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    return alta_auth_lookup(engine, request, &decision);
}

CASE(lookup_answers_from_memory_only) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    decision.verdict = 77;
    CHECK_EQ(alta_auth_lookup(engine, &request, &decision), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(decision.verdict, 77); /* outputs are written on success only */
    CHECK_EQ(backend_requests(b, NULL), 0);
    alta_auth_decision first = check_ok(engine, &request);
    CHECK(first.ttl_ms > 590000 && first.ttl_ms <= 600000);
    alta_auth_stats before = stats_of(engine);
    CHECK_EQ(before.remembered, 1);
    CHECK_EQ(alta_auth_lookup(engine, &request, &decision), ALTA_AUTH_OK);
    CHECK_EQ(decision.verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_MEMORY);
    CHECK_EQ(decision.cause, ALTA_AUTH_CAUSE_NONE);
    CHECK(decision.ttl_ms > 590000 && decision.ttl_ms <= first.ttl_ms);
    CHECK(text_is(decision.user_id, "user-42"));
    alta_auth_request stranger = ask("s2", "token=123");
    CHECK_EQ(look(engine, &stranger), ALTA_AUTH_ERR_NOT_FOUND);
    alta_auth_stats after = stats_of(engine);
    CHECK_EQ(after.submitted, before.submitted); /* it counts no check */
    CHECK_EQ(after.from_memory, before.from_memory);
    CHECK_EQ(backend_requests(b, NULL), 1);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(submit_is_answered_from_memory) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    sink to;
    sink_init(&to);
    seen place;
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    seen_init(&place, &to);
    submit_and_wait(engine, &request, &place);
    CHECK_EQ(place.decision.origin, ALTA_AUTH_ORIGIN_MEMORY);
    CHECK(strcmp(place.user_id, "user-42") == 0);
    CHECK_EQ(check_ok(engine, &request).origin, ALTA_AUTH_ORIGIN_MEMORY);
    CHECK_EQ(backend_requests(b, NULL), 1);
    alta_auth_engine_free(engine);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(fresh_asks_the_backend_and_replaces) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123"), fresh = request;
    fresh.flags = ALTA_AUTH_FRESH;
    check_ok(engine, &request);
    reply refused = {.status = 403};
    backend_rule(b, "123", refused);
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_decision decision = check_ok(engine, &fresh);
    CHECK_EQ(decision.verdict, ALTA_AUTH_DENY);
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(backend_requests(b, NULL), 2);
    /* An answer that may not be kept itself still replaces what was. */
    CHECK_EQ(look(engine, &request), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_DENY);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(equal_checks_share_one_exchange) {
    backend *b = backend_start();
    reply held = {.status = 200, .hold = true};
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held"), fresh = request;
    fresh.flags = ALTA_AUTH_FRESH;
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, i == 9 ? &fresh : &request, NULL, NULL), ALTA_AUTH_OK);
    }
    CHECK(backend_wait_requests(b, "held", 1));
    backend_release(b, "held");
    alta_auth_completion done[10];
    reap_all(queue, done, 10);
    size_t coalesced = 0;
    for (size_t i = 0; i < 10; i++) {
        CHECK_EQ(done[i].decision.verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(done[i].decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
        coalesced += (done[i].decision.flags & ALTA_AUTH_COALESCED) != 0;
    }
    CHECK_EQ(coalesced, 9); /* joiners, not the leader; a FRESH check joins too */
    CHECK_EQ(backend_requests(b, NULL), 1);
    alta_auth_stats stats = stats_of(engine);
    CHECK_EQ(stats.coalesced, 9);
    CHECK_EQ(stats.exchanges, 1);
    CHECK_EQ(stats.from_backend, 10);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(different_requests_never_share) {
    backend *b = backend_start();
    reply held = {.status = 200, .hold = true, .headers = "X-AuthDuration: 600\r\n"};
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request requests[7];
    for (size_t i = 0; i < 7; i++) {
        requests[i] = ask("ab", "token=held");
    }
    requests[1].session_id = alta_auth_str_of("a");
    requests[2].ip = alta_auth_str_of("192.0.2.2");
    requests[3].path = alta_auth_str_of("/live/other.m3u8");
    requests[4].query = alta_auth_str_of("token=held&x=1");
    requests[5].origin = alta_auth_str_of("https://example.com");
    requests[6].user_agent = alta_auth_str_of("other");
    for (size_t i = 0; i < 7; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, &requests[i], NULL, NULL), ALTA_AUTH_OK);
    }
    CHECK(backend_wait_requests(b, "held", 7));
    backend_release(b, "held");
    alta_auth_completion done[7];
    reap_all(queue, done, 7);
    for (size_t i = 0; i < 7; i++) {
        CHECK_EQ(done[i].decision.flags, 0);
    }
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(scope_replaces_the_path) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), "scope", "directory", NULL);
    alta_auth_request playlist = ask("s", "token=123"), segment = playlist, elsewhere = playlist, named = playlist;
    segment.path = alta_auth_str_of("/live/segment1.ts");
    elsewhere.path = alta_auth_str_of("/other/segment1.ts");
    named.scope = alta_auth_str_of("channel-7");
    check_ok(engine, &playlist);
    CHECK_EQ(look(engine, &segment), ALTA_AUTH_OK);
    CHECK_EQ(look(engine, &elsewhere), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(look(engine, &named), ALTA_AUTH_ERR_NOT_FOUND);
    check_ok(engine, &named);
    named.path = elsewhere.path;
    CHECK_EQ(look(engine, &named), ALTA_AUTH_OK);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- lifetimes ---- */

CASE(lifetimes) {
    static const struct {
        const char *headers;
        int status;
        uint32_t least, most; /* of ttl_ms; 0 and 0: not remembered */
    } rows[] = {
        {"X-AuthDuration: 600\r\n", 200, 590000, 600000},
        {"X-AuthDuration: 600\r\nCache-Control: max-age=5\r\n", 200, 590000, 600000},
        {"Cache-Control: max-age=100\r\n", 200, 90000, 100000},
        {"Cache-Control: max-age=100, s-maxage=50\r\n", 200, 40000, 50000},
        {"Cache-Control: no-store, max-age=100\r\n", 200, 0, 0},
        {"X-AuthDuration: 600\r\nCache-Control: no-store\r\n", 200, 590000, 600000},
        {"X-AuthDuration: 0\r\nCache-Control: max-age=100\r\n", 200, 0, 0},
        {"X-AuthDuration: soon\r\nCache-Control: max-age=100\r\n", 200, 0, 0},
        {"X-AuthDuration: -5\r\n", 200, 0, 0},
        {"X-AuthDuration: 99999999999999999999\r\n", 200, 86390000, 86400000}, /* ttl.max, 24h */
        {"X-AuthDuration: 600\r\n", 403, 50000, 60000},                         /* ttl.max_deny, 60 s */
        {"X-AuthDuration: 30\r\n", 401, 20000, 30000},
        {"X-AuthDuration: 600\r\n", 404, 0, 0}, /* only allowing statuses, 401 and 403 */
        {"X-AuthDuration: 600\r\n", 500, 0, 0},
        {"", 200, 0, 0},
    };
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        reply said = {.status = rows[i].status, .headers = rows[i].headers};
        char session[16];
        backend_rule(b, "t", said);
        snprintf(session, sizeof session, "s%zu", i);
        alta_auth_request request = ask(session, "token=t");
        alta_auth_decision decision = check_ok(engine, &request);
        if (decision.ttl_ms < rows[i].least || decision.ttl_ms > rows[i].most) {
            fail(__FILE__, __LINE__, "%d %s: ttl_ms %u", rows[i].status, rows[i].headers, (unsigned)decision.ttl_ms);
        }
        CHECK_EQ(look(engine, &request), rows[i].most ? ALTA_AUTH_OK : ALTA_AUTH_ERR_NOT_FOUND);
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(jitter_only_shortens) {
    backend *b = backend_start();
    alta_auth_config *config = alta_auth_config_new(); /* the default jitter */
    set_key(config, "backend.url", backend_url(b));
    set_key(config, "default_action", "deny");
    set_key(config, "log.level", "off");
    alta_auth_engine *engine = engine_from(config);
    static const struct {
        const char *headers;
        uint32_t full, most_off;
    } rows[] = {{"X-AuthDuration: 100\r\n", 100000, 5000}, {"X-AuthDuration: 36000\r\n", 36000000, 30000},
                {"X-AuthDuration: 9\r\n", 9000, 0}};
    for (size_t i = 0; i < 3; i++) {
        reply said = {.status = 200, .headers = rows[i].headers};
        backend_rule(b, "t", said);
        for (size_t n = 0; n < 20; n++) {
            char session[16];
            snprintf(session, sizeof session, "s%zu-%zu", i, n);
            alta_auth_request request = ask(session, "token=t");
            uint32_t ttl = check_ok(engine, &request).ttl_ms;
            CHECK(ttl <= rows[i].full);
            CHECK(ttl + rows[i].most_off + 5000 > rows[i].full); /* 5 s for a slow machine */
        }
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

typedef struct looking {
    alta_auth_engine *engine;
    const alta_auth_request *request;
} looking;

static bool is_forgotten(void *context) {
    const looking *l = context;
    return look(l->engine, l->request) == ALTA_AUTH_ERR_NOT_FOUND;
}

CASE(what_is_remembered_expires) {
    backend *b = backend_start();
    reply brief = {.status = 200, .headers = "X-AuthDuration: 1\r\n"};
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    uint64_t before = now_ns();
    check_ok(engine, &request);
    looking l = {engine, &request};
    CHECK(eventually(is_forgotten, &l));
    CHECK(now_ns() - before >= 1000000000U);
    CHECK_EQ(check_ok(engine, &request).origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(backend_requests(b, NULL), 2);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(last_known_answers_an_outage_but_not_a_lookup) {
    backend *b = backend_start();
    reply brief = {.status = 200, .headers = "X-AuthDuration: 1\r\n"}, reset = {.kind = REPLY_RESET};
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), "last_known", "10m", NULL);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    looking l = {engine, &request};
    CHECK(eventually(is_forgotten, &l));
    backend_rule(b, "123", reset);
    alta_auth_decision decision = check_ok(engine, &request);
    CHECK_EQ(decision.verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_LAST_KNOWN);
    CHECK_EQ(decision.cause, ALTA_AUTH_CAUSE_RESET);
    CHECK_EQ(look(engine, &request), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(stats_of(engine).from_last_known, 1);
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    decision = check_ok(engine, &request);
    CHECK_EQ(decision.verdict, ALTA_AUTH_DENY); /* revoked: no last known, and the default is deny */
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_DEFAULT);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(a_default_action_is_never_remembered) {
    backend *b = backend_start();
    reply reset = {.kind = REPLY_RESET};
    backend_rule(b, "123", reset);
    alta_auth_engine *engine =
        engine_with(backend_url(b), "default_action", "allow", "ttl.allow", "10m", "ttl.deny", "10m", NULL);
    alta_auth_request request = ask("s", "token=123");
    alta_auth_decision decision = check_ok(engine, &request);
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_DEFAULT);
    CHECK_EQ(decision.ttl_ms, 0);
    CHECK_EQ(look(engine, &request), ALTA_AUTH_ERR_NOT_FOUND);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- revoke ---- */

CASE(revoke_forgets_at_once) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request one = ask("s", "token=123"), two = one;
    two.path = alta_auth_str_of("/other");
    CHECK_EQ(alta_auth_revoke(engine, alta_auth_str_of("never heard of")), ALTA_AUTH_OK);
    check_ok(engine, &one);
    check_ok(engine, &two);
    CHECK_EQ(alta_auth_revoke(engine, one.session_id), ALTA_AUTH_OK);
    CHECK_EQ(look(engine, &one), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(look(engine, &two), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK(stats_of(engine).revoked > 0);
    CHECK_EQ(check_ok(engine, &one).origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(look(engine, &one), ALTA_AUTH_OK); /* a new answer is remembered again */
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoke_during_a_flight) {
    backend *b = backend_start();
    reply late = {.status = 200, .headers = "X-AuthDuration: 600\r\n", .hold = true};
    backend_rule(b, "held", late);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held");
    uint64_t earlier = 0, later = 0;
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &earlier), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    backend_release(b, "held");
    alta_auth_completion done;
    reap_all(queue, &done, 1);
    CHECK_EQ(done.decision.verdict, ALTA_AUTH_ALLOW); /* its waiters get its answer ... */
    CHECK_EQ(done.decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(done.decision.ttl_ms, 0); /* ... unremembered */
    CHECK_EQ(look(engine, &request), ALTA_AUTH_ERR_NOT_FOUND);

    backend_rule(b, "held", late);
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &earlier), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 2));
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &later), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 3)); /* it does not join the earlier exchange */
    backend_release(b, "held");
    alta_auth_completion both[2];
    reap_all(queue, both, 2);
    CHECK_EQ(both[0].decision.flags, 0);
    CHECK_EQ(both[1].decision.flags, 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoked_sessions_default_is_deny) {
    backend *b = backend_start();
    reply reset = {.kind = REPLY_RESET};
    backend_rule(b, "123", reset);
    alta_auth_engine *engine = engine_with(backend_url(b), "default_action", "allow", NULL);
    alta_auth_request request = ask("s", "token=123"), other = ask("other", "token=123");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(check_ok(engine, &other).verdict, ALTA_AUTH_ALLOW);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
