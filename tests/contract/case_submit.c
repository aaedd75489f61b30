/* A check from submit to delivery: what goes out, what comes back, on which thread. */
#define _GNU_SOURCE
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

CASE(submit_delivers_to_the_callback) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    sink to;
    sink_init(&to);
    seen yes, no;
    seen_init(&yes, &to);
    seen_init(&no, &to);
    alta_auth_request request = ask("s1", "token=123");
    submit_and_wait(engine, &request, &yes);
    request = ask("s2", "token=9");
    submit_and_wait(engine, &request, &no);
    CHECK_EQ(yes.decision.verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(yes.decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(yes.decision.cause, ALTA_AUTH_CAUSE_NONE);
    CHECK_EQ(yes.decision.http_status, 200);
    CHECK_EQ(yes.decision.flags, 0);
    CHECK_EQ(yes.decision.ttl_ms, 0);
    CHECK_EQ(yes.decision.max_sessions, 0);
    CHECK_EQ(yes.decision.user_id.len, 0);
    CHECK_EQ(yes.decision.location.len, 0);
    CHECK(yes.decision.latency_ns > 0 && yes.decision.latency_ns < 60000000000U);
    CHECK_EQ(no.decision.verdict, ALTA_AUTH_DENY);
    CHECK_EQ(no.decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(no.decision.cause, ALTA_AUTH_CAUSE_NONE);
    CHECK_EQ(no.decision.http_status, 403);
    CHECK(yes.ticket != 0 && no.ticket != 0 && yes.ticket != no.ticket);
    CHECK(!pthread_equal(yes.by, pthread_self()));
    CHECK(strncmp(yes.thread, "alta-cb-", 8) == 0);
    alta_auth_engine_free(engine);
    CHECK_EQ(sink_count(&to), 2);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(ticket_may_be_null) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=123");
    alta_auth_completion done;
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    reap_all(queue, &done, 1);
    CHECK(done.user_data == NULL);
    CHECK(done.decision.ticket != 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(the_request_on_the_wire) {
    backend *b = backend_start();
    char url[128];
    snprintf(url, sizeof url, "%s?key=K", backend_url(b));
    alta_auth_engine *engine = engine_with(url, "param.from", "{ip}", "header.X-Api", "secret", NULL);
    alta_auth_request request = ask("session-1", "a=%41&key=forged&FROM=forged&token=123&b=\xC3\xA9 x");
    request.origin = alta_auth_str_of("https://live.example.com:8443");
    request.user_agent = alta_auth_str_of("  VLC/3.0 \xE9\x01z ");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    char head[4096], expected[512];
    backend_last_request(b, "123", head, sizeof head);
    const char *line = "GET /auth?key=K&from=192.0.2.1&a=%41&token=123&b=%C3%A9%20x HTTP/1.1\r\n";
    if (strncmp(head, line, strlen(line)) != 0) {
        fail(__FILE__, __LINE__, "%s", head);
    }
    snprintf(expected, sizeof expected, "\r\nHost: %.*s\r\n", (int)strcspn(url + 7, "/"), url + 7);
    CHECK(strstr(head, expected) != NULL);
    static const char *const headers[] = {"\r\nX-Session-Id: session-1\r\n", "\r\nX-Real-Ip: 192.0.2.1\r\n",
                                          "\r\nX-Real-Path: /live/index.m3u8\r\n",
                                          "\r\nX-Real-Origin: https://live.example.com:8443\r\n",
                                          "\r\nX-Real-Ua: VLC/3.0 \xE9 z\r\n"};
    const char *last = head;
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        const char *at = strstr(head, headers[i]);
        if (!at || at < last) {
            fail(__FILE__, __LINE__, "%s in %s", headers[i] + 2, head);
        }
        last = at;
    }
    CHECK(strstr(head, "\r\nX-Api: secret\r\n") != NULL);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(the_five_headers_are_sent_when_empty) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    request.session_id = alta_auth_str_of("s");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_DENY);
    char head[4096];
    backend_last_request(b, "", head, sizeof head);
    CHECK(strncmp(head, "GET /auth HTTP/1.1\r\n", 20) == 0); /* no '?' when nothing is left */
    static const char *const names[] = {"X-Real-Ip", "X-Real-Path", "X-Real-Origin", "X-Real-Ua"};
    for (size_t i = 0; i < 4; i++) {
        char empty[64], spaced[64];
        snprintf(empty, sizeof empty, "\r\n%s:\r\n", names[i]);
        snprintf(spaced, sizeof spaced, "\r\n%s: \r\n", names[i]);
        CHECK(strstr(head, empty) || strstr(head, spaced));
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(text_is_copied_before_submit_returns) {
    backend *b = backend_start();
    reply slow = {.status = 200, .delay_ms = 50};
    backend_rule(b, "first", slow);
    /* One connection: the second request is written long after its text is gone. */
    alta_auth_engine *engine = engine_with(backend_url(b), "pool.max_connections", "1", NULL);
    sink to;
    sink_init(&to);
    seen one, two;
    seen_init(&one, &to);
    seen_init(&two, &to);
    alta_auth_request first = ask("s1", "token=first");
    CHECK_EQ(alta_auth_submit(engine, &first, on_decision, &one, &one.ticket), ALTA_AUTH_OK);
    char *text = strdup("s2token=123/path.ts");
    CHECK(text != NULL);
    alta_auth_request *second = malloc(sizeof *second);
    CHECK(second != NULL);
    *second = ask("", "");
    second->session_id = (alta_auth_str){text, 2};
    second->query = (alta_auth_str){text + 2, 9};
    second->path = (alta_auth_str){text + 11, 8};
    CHECK_EQ(alta_auth_submit(engine, second, on_decision, &two, &two.ticket), ALTA_AUTH_OK);
    memset(text, 'X', strlen(text));
    free(text);
    memset(second, 0xFF, sizeof *second);
    free(second);
    sink_wait(&to, 2);
    CHECK_EQ(two.decision.verdict, ALTA_AUTH_ALLOW);
    char head[4096];
    backend_last_request(b, "123", head, sizeof head);
    CHECK(strstr(head, "\r\nX-Session-Id: s2\r\n") != NULL);
    CHECK(strstr(head, "\r\nX-Real-Path: /path.ts\r\n") != NULL);
    alta_auth_engine_free(engine);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(what_the_backend_says_is_reported) {
    backend *b = backend_start();
    reply full = {.status = 200,
                  .headers = "X-AuthDuration: 36000\r\nX-UserId: user-42\r\nX-Max-Sessions: 10\r\nX-Unique: true\r\n"
                             "Location: https://example.com/second\r\nX-Location: https://example.com/first\r\n"};
    reply moved = {.status = 302, .headers = "Location: /login\r\n"};
    reply evil = {.status = 403,
                  .headers = "Location: //evil.example/\r\nX-UserId: a\xC3\xA9\r\nX-UserId: second\r\n"};
    reply twice = {.status = 403, .headers = "X-UserId: first\r\nX-UserId: second\r\n"};
    backend_rule(b, "full", full);
    backend_rule(b, "moved", moved);
    backend_rule(b, "evil", evil);
    backend_rule(b, "twice", twice);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=full");
    alta_auth_decision decision = check_ok(engine, &request);
    CHECK_EQ(decision.verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(decision.flags, ALTA_AUTH_UNIQUE);
    CHECK_EQ(decision.max_sessions, 10);
    CHECK(text_is(decision.user_id, "user-42"));
    CHECK(text_is(decision.location, "https://example.com/first")); /* X-Location goes before Location */
    CHECK(decision.ttl_ms > 35990000U && decision.ttl_ms <= 36000000U);
    request = ask("s", "token=moved");
    decision = check_ok(engine, &request);
    CHECK_EQ(decision.verdict, ALTA_AUTH_DENY);
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(decision.http_status, 302);
    CHECK(text_is(decision.location, "/login"));
    request = ask("s", "token=evil");
    decision = check_ok(engine, &request);
    CHECK_EQ(decision.location.len, 0);
    CHECK_EQ(decision.user_id.len, 0);
    request = ask("s", "token=twice");
    CHECK(text_is(check_ok(engine, &request).user_id, "first"));
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(detail_is_one_line_without_the_query) {
    backend *b = backend_start();
    reply reset = {.kind = REPLY_RESET};
    reply odd = {.status = 404, .headers = "X-UserId: HeaderCanary\r\nX-Odd: HeaderCanary\r\n"};
    backend_rule(b, "Canary1", reset);
    backend_rule(b, "Canary2", odd);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    static const char *const queries[] = {"token=Canary1", "token=Canary2"};
    for (size_t i = 0; i < 2; i++) {
        alta_auth_request request = ask("s", queries[i]);
        request.user_agent = alta_auth_str_of("HeaderCanary");
        alta_auth_decision decision = check_ok(engine, &request);
        CHECK(decision.detail.len > 0);
        CHECK(!text_has(decision.detail, "Canary"));
        CHECK(!text_has(decision.detail, "\n") && !text_has(decision.detail, "\r"));
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(text_of_a_check_lives_until_the_threads_next) {
    backend *b = backend_start();
    reply named = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-of-check\r\n"};
    backend_rule(b, "123", named);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    alta_auth_decision first = check_ok(engine, &request);
    sink to;
    sink_init(&to);
    for (int i = 0; i < 10; i++) { /* submit is neither a check nor a lookup */
        seen other;
        seen_init(&other, &to);
        submit_and_wait(engine, &request, &other);
    }
    CHECK(text_is(first.user_id, "user-of-check"));
    CHECK(first.detail.len == 0 || first.detail.ptr != NULL);
    alta_auth_decision again = ALTA_AUTH_DECISION_INIT;
    CHECK_EQ(alta_auth_lookup(engine, &request, &again), ALTA_AUTH_OK);
    alta_auth_engine_free(engine);
    CHECK(text_is(again.user_id, "user-of-check")); /* a thread's buffer does not belong to the engine */
    sink_destroy(&to);
    backend_stop(b);
}

/* ---- never from inside submit ---- */

static _Thread_local int submitting;

static void not_inside(void *user_data, const alta_auth_decision *decision) {
    CHECK(!submitting);
    on_decision(user_data, decision);
}

static void submit_remembered(const char *callback_threads, const char *thread_prefix) {
    backend *b = backend_start();
    reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), "threads.callback", callback_threads, NULL);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    enum { TIMES = 500 };
    sink to;
    sink_init(&to);
    seen *all = calloc(TIMES, sizeof *all);
    CHECK(all != NULL);
    for (size_t i = 0; i < TIMES; i++) {
        seen_init(&all[i], &to);
        submitting = 1;
        CHECK_EQ(alta_auth_submit(engine, &request, not_inside, &all[i], &all[i].ticket), ALTA_AUTH_OK);
        submitting = 0;
    }
    sink_wait(&to, TIMES);
    for (size_t i = 0; i < TIMES; i++) {
        CHECK_EQ(all[i].times, 1);
        CHECK_EQ(all[i].decision.origin, ALTA_AUTH_ORIGIN_MEMORY);
        CHECK(!pthread_equal(all[i].by, pthread_self()));
        CHECK(strncmp(all[i].thread, thread_prefix, strlen(thread_prefix)) == 0);
    }
    CHECK_EQ(backend_requests(b, NULL), 1);
    free(all);
    alta_auth_engine_free(engine);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(never_from_inside_submit) {
    submit_remembered("1", "alta-cb-");
}

CASE(never_from_inside_submit_without_callback_threads) {
    submit_remembered("0", "alta-io-");
}

CASE(check_blocks_until_there_is_a_decision) {
    backend *b = backend_start();
    reply late = {.status = 200, .delay_ms = 100};
    backend_rule(b, "123", late);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    uint64_t before = now_ns();
    alta_auth_decision decision = check_ok(engine, &request);
    CHECK(now_ns() - before >= 100000000U);
    CHECK(decision.latency_ns >= 100000000U && decision.latency_ns <= now_ns() - before);
    CHECK_EQ(decision.verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(decision.struct_size, sizeof decision);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
