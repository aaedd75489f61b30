/* No answer from the backend: verdict, origin and cause of each kind of outage. */
#define _GNU_SOURCE
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Asks once of each default action: the default decides, and says why. */
static void outage(const char *url, const char *key, const char *value, int32_t cause, uint32_t http_status) {
    for (int allow = 0; allow <= 1; allow++) {
        alta_auth_engine *engine =
            engine_with(url, "default_action", allow ? "allow" : "deny", key, value, NULL);
        sink to;
        sink_init(&to);
        seen place;
        seen_init(&place, &to);
        alta_auth_request request = ask("s", "token=outage");
        submit_and_wait(engine, &request, &place);
        const alta_auth_decision *d = &place.decision;
        if (d->cause != cause) {
            fail(__FILE__, __LINE__, "%s, not %s: %s", alta_auth_cause_name(d->cause), alta_auth_cause_name(cause),
                 place.detail);
        }
        CHECK_EQ(d->origin, ALTA_AUTH_ORIGIN_DEFAULT);
        CHECK_EQ(d->verdict, allow ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY);
        CHECK_EQ(d->http_status, http_status);
        CHECK_EQ(d->ttl_ms, 0);
        CHECK(d->detail.len > 0);
        alta_auth_stats stats = stats_of(engine);
        CHECK_EQ(stats.causes[cause], 1);
        CHECK_EQ(stats.from_default, 1);
        CHECK_EQ(allow ? stats.allowed : stats.denied, 1);
        alta_auth_engine_free(engine);
        sink_destroy(&to);
    }
}

static void scripted_outage(reply r, const char *key, const char *value, int32_t cause, uint32_t http_status) {
    backend *b = backend_start();
    backend_rule(b, "outage", r);
    outage(backend_url(b), key, value, cause, http_status);
    CHECK_EQ(backend_requests(b, "outage"), 2); /* one an engine: nothing is asked twice on a fresh connection */
    backend_stop(b);
}

CASE(outage_resolve) {
    /* Needs a resolver that answers within the deadline, if only with an error: the C library is told to hurry. */
    CHECK(setenv("RES_OPTIONS", "timeout:1 attempts:1", 1) == 0);
    outage("http://contract.invalid/auth", "dns.refresh", "30s", ALTA_AUTH_CAUSE_RESOLVE, 0);
    /* A free does not wait for the resolver, so the threads end a moment later. */
    expected_threads none = {"alta-", 0};
    CHECK(eventually(thread_count_is, &none));
}

CASE(outage_connect) {
    char url[64];
    refused_url(url, sizeof url);
    outage(url, "timeout", "30s", ALTA_AUTH_CAUSE_CONNECT, 0);
}

CASE(outage_connect_to_a_missing_socket) {
    outage("unix:/nonexistent/contract.sock:/auth", "timeout", "30s", ALTA_AUTH_CAUSE_CONNECT, 0);
}

CASE(outage_tls) {
    backend *b = backend_start();
    char url[80];
    snprintf(url, sizeof url, "https%s", backend_url(b) + 4);
    outage(url, "tls.verify", "off", ALTA_AUTH_CAUSE_TLS, 0);
    CHECK_EQ(backend_requests(b, NULL), 0);
    backend_stop(b);
}

CASE(outage_timeout) {
    reply never = {.status = 200, .hold = true};
    char timeout[16]; /* long enough for the request to arrive, also under a tool */
    snprintf(timeout, sizeof timeout, "%dms", scaled_ms(200));
    scripted_outage(never, "timeout", timeout, ALTA_AUTH_CAUSE_TIMEOUT, 0);
}

CASE(outage_reset) {
    reply closed = {.kind = REPLY_CLOSE}, reset = {.kind = REPLY_RESET};
    scripted_outage(closed, "timeout", "30s", ALTA_AUTH_CAUSE_RESET, 0);
    scripted_outage(reset, "timeout", "30s", ALTA_AUTH_CAUSE_RESET, 0);
}

static void protocol_outage(const char *raw) {
    backend *b = backend_start();
    reply r = {.kind = REPLY_RAW, .raw = raw};
    backend_rule(b, "t", r);
    static const char *const lanes[] = {"auto", "hyper"};
    for (size_t i = 0; i < sizeof lanes / sizeof lanes[0]; i++) {
        alta_auth_engine *engine = engine_with(backend_url(b), "http.lane", lanes[i], "default_action", "allow", NULL);
        alta_auth_request request = ask("s", "token=t");
        alta_auth_decision d = check_ok(engine, &request);
        if (d.cause != ALTA_AUTH_CAUSE_PROTOCOL || d.origin != ALTA_AUTH_ORIGIN_DEFAULT) {
            fail(__FILE__, __LINE__, "lane %s: %s for %.60s", lanes[i], alta_auth_cause_name(d.cause), raw);
        }
        CHECK_EQ(d.verdict, ALTA_AUTH_ALLOW);
        alta_auth_engine_free(engine);
    }
    backend_stop(b);
}

CASE(outage_protocol) {
    protocol_outage("SSH-2.0-OpenSSH_9.2\r\n\r\n");
    protocol_outage("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n");
    protocol_outage("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    protocol_outage("HTTP/1.1 200 OK\r\nX-UserId: cut sho"); /* cut short: not a reset */
    protocol_outage("HTTP/1.1 2");
    protocol_outage("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
    protocol_outage("HTTP/1.1 600 Beyond\r\n\r\n");
}

CASE(outage_protocol_header_section_over_the_limit) {
    enum { LONG = 20000 };
    char *big = malloc(LONG + 200);
    CHECK(big != NULL);
    int head = snprintf(big, 200, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Big: ");
    memset(big + head, 'a', LONG);
    strcpy(big + head + LONG, "\r\n\r\n");
    protocol_outage(big);
    char *at = big + snprintf(big, 200, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n");
    for (int i = 0; i < 70; i++) { /* at most 64 headers */
        at += snprintf(at, 32, "X-N%d: 1\r\n", i);
    }
    strcpy(at, "\r\n");
    protocol_outage(big);
    free(big);
}

/* An allow needs everything right, a refusal only a status line. */
CASE(a_refusal_needs_only_its_status_line) {
    static const char *const texts[] = {
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nX-UserId: cut sho",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nshort",
    };
    backend *b = backend_start();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        reply r = {.kind = REPLY_RAW, .raw = texts[i]};
        backend_rule(b, "t", r);
        alta_auth_engine *engine =
            engine_with(backend_url(b), "default_action", "allow", "ttl.deny", "10m", NULL);
        alta_auth_request request = ask("s", "token=t");
        alta_auth_decision d = check_ok(engine, &request);
        CHECK_EQ(d.verdict, ALTA_AUTH_DENY);
        CHECK_EQ(d.origin, ALTA_AUTH_ORIGIN_BACKEND);
        CHECK_EQ(d.cause, ALTA_AUTH_CAUSE_NONE);
        CHECK_EQ(d.http_status, 403);
        alta_auth_engine_free(engine);
    }
    backend_stop(b);
}

CASE(outage_status) {
    reply unavailable = {.status = 503};
    scripted_outage(unavailable, "unavailable_statuses", "503", ALTA_AUTH_CAUSE_STATUS, 503);
    scripted_outage(unavailable, "unavailable_statuses", "5xx", ALTA_AUTH_CAUSE_STATUS, 503);
}

CASE(a_status_not_named_unavailable_is_a_refusal) {
    backend *b = backend_start();
    reply unavailable = {.status = 503};
    backend_rule(b, "t", unavailable);
    alta_auth_engine *engine = engine_with(backend_url(b), "default_action", "allow", NULL);
    alta_auth_request request = ask("s", "token=t");
    alta_auth_decision d = check_ok(engine, &request);
    CHECK_EQ(d.verdict, ALTA_AUTH_DENY);
    CHECK_EQ(d.origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(d.http_status, 503);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(outage_breaker_open) {
    backend *b = backend_start();
    reply reset = {.kind = REPLY_RESET};
    backend_rule(b, "t", reset);
    alta_auth_engine *engine = engine_with(backend_url(b), "breaker.failures", "3", "breaker.cooldown", "10m",
                                           "default_action", "allow", NULL);
    static const char *const addresses[] = {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"};
    for (size_t i = 0; i < 4; i++) { /* an outage counts once per client address */
        alta_auth_request request = ask("s", "token=t");
        request.ip = alta_auth_str_of(addresses[i]);
        alta_auth_decision d = check_ok(engine, &request);
        CHECK_EQ(d.cause, i < 3 ? ALTA_AUTH_CAUSE_RESET : ALTA_AUTH_CAUSE_BREAKER_OPEN);
        CHECK_EQ(d.verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(d.origin, ALTA_AUTH_ORIGIN_DEFAULT);
    }
    CHECK_EQ(backend_requests(b, "t"), 3);
    CHECK_EQ(stats_of(engine).causes[ALTA_AUTH_CAUSE_BREAKER_OPEN], 1);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* A local failure denies even where an outage of the backend allows. */
CASE(outage_overload_without_descriptors) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), "default_action", "allow", "timeout", "2s", NULL);
    struct rlimit limit, none;
    int descriptors[256];
    size_t n = open_descriptors(descriptors, 256);
    int highest = 0;
    for (size_t i = 0; i < n; i++) {
        highest = descriptors[i] > highest ? descriptors[i] : highest;
    }
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    none = limit;
    none.rlim_cur = 3; /* those that are open stay open */
    CHECK(highest >= 3);
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    alta_auth_request request = ask("s", "token=123");
    alta_auth_decision d = check_ok(engine, &request);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_EQ(d.cause, ALTA_AUTH_CAUSE_OVERLOAD);
    CHECK_EQ(d.origin, ALTA_AUTH_ORIGIN_DEFAULT);
    CHECK_EQ(d.verdict, ALTA_AUTH_DENY);
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- deadlines ---- */

CASE(timeout_ms_shortens_and_is_clamped) {
    backend *b = backend_start();
    reply never = {.status = 200, .hold = true};
    backend_rule(b, "t", never);
    /* Not sent in time is OVERLOAD, and under valgrind an engine's first steps take long. */
    const uint32_t expected = (uint32_t)scaled_ms(2000), longer = 60000;
    const struct {
        uint32_t configured, asked;
    } rows[] = {{longer, expected}, {expected, 0}, {expected, UINT32_MAX}};
    alta_auth_engine *engines[3];
    seen places[3];
    sink to;
    sink_init(&to);
    for (size_t i = 0; i < 3; i++) {
        char timeout[16];
        snprintf(timeout, sizeof timeout, "%ums", rows[i].configured);
        engines[i] = engine_with(backend_url(b), "timeout", timeout, NULL);
        alta_auth_request request = ask("s", "token=t");
        request.timeout_ms = rows[i].asked;
        seen_init(&places[i], &to);
        CHECK_EQ(alta_auth_submit(engines[i], &request, on_decision, &places[i], &places[i].ticket), ALTA_AUTH_OK);
    }
    sink_wait(&to, 3);
    for (size_t i = 0; i < 3; i++) {
        const alta_auth_decision *d = &places[i].decision;
        CHECK_EQ(d->cause, ALTA_AUTH_CAUSE_TIMEOUT);
        CHECK_EQ(d->origin, ALTA_AUTH_ORIGIN_DEFAULT);
        CHECK(d->latency_ns >= expected * UINT64_C(1000000));
        CHECK(d->latency_ns < longer * UINT64_C(1000000));
        alta_auth_engine_free(engines[i]);
    }
    sink_destroy(&to);
    backend_stop(b);
}

CASE(waiters_with_time_left_move_to_one_new_exchange) {
    backend *b = backend_start();
    reply never = {.status = 200, .hold = true};
    backend_rule(b, "t", never);
    const int half = scaled_ms(2000);
    char timeout[16];
    snprintf(timeout, sizeof timeout, "%dms", 2 * half);
    alta_auth_engine *engine = engine_with(backend_url(b), "timeout", timeout, NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=t");
    uint64_t leader = 0, joiners[2] = {0, 0};
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &leader), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "t", 1));
    pass_ms(half); /* the joiners' deadlines are later than the exchange's by as much */
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &joiners[i]), ALTA_AUTH_OK);
    }
    CHECK(backend_wait_requests(b, "t", 2));
    backend_release(b, "t");
    alta_auth_completion done[3];
    reap_all(queue, done, 3);
    for (size_t i = 0; i < 3; i++) {
        const alta_auth_decision *d = &done[i].decision;
        CHECK_EQ(d->cause, d->ticket == leader ? ALTA_AUTH_CAUSE_TIMEOUT : ALTA_AUTH_CAUSE_NONE);
        CHECK_EQ(d->verdict, d->ticket == leader ? ALTA_AUTH_DENY : ALTA_AUTH_ALLOW);
    }
    CHECK_EQ(backend_requests(b, "t"), 2);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(safe_retry_on_a_reused_connection) {
    backend *b = backend_start();
    reply stale = {.kind = REPLY_CLOSE_IF_REUSED, .status = 200};
    backend_rule(b, "stale", stale);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request first = ask("s", "token=123"), second = ask("s", "token=stale");
    check_ok(engine, &first);
    alta_auth_decision d = check_ok(engine, &second);
    CHECK_EQ(d.verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(d.origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(backend_requests(b, "stale"), 2);
    CHECK_EQ(stats_of(engine).retries, 1);
    CHECK_EQ(backend_connections(b), 2);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
