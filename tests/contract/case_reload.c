/* Reload: backend, policy and credentials change atomically; nothing in flight is lost. */
#define _GNU_SOURCE
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};

static int32_t look(alta_auth_engine *engine, const alta_auth_request *request, alta_auth_decision *out) {
    alta_auth_decision blank = ALTA_AUTH_DECISION_INIT;
    *out = blank;
    return alta_auth_lookup(engine, request, out);
}

static void reload_ok(alta_auth_engine *engine, alta_auth_config *config) {
    char error[512] = "";
    int32_t status = alta_auth_engine_reload(engine, config, error, sizeof error);
    if (status != ALTA_AUTH_OK) {
        fail(__FILE__, __LINE__, "engine_reload: %d %s", (int)status, error);
    }
}

CASE(reload_swaps_the_backend) {
    backend *old = backend_start(), *new = backend_start();
    reply held = {.status = 200, .hold = true}, refused = {.status = 403};
    backend_rule(old, "held", held);
    backend_rule(new, NULL, refused);
    alta_auth_engine *engine = engine_with(backend_url(old), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request in_flight = ask("s", "token=held"), next = ask("s", "token=123");
    CHECK_EQ(alta_auth_queue_submit(queue, &in_flight, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(old, "held", 1));
    reload_ok(engine, config_with(backend_url(new), "default_action", "allow", NULL));
    CHECK_EQ(alta_auth_default_action(engine), ALTA_AUTH_ALLOW);
    CHECK_EQ(check_ok(engine, &next).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(backend_requests(old, NULL), 1);
    CHECK_EQ(backend_requests(new, NULL), 1);
    backend_release(old, "held");
    alta_auth_completion done;
    reap_all(queue, &done, 1);
    CHECK_EQ(done.decision.verdict, ALTA_AUTH_ALLOW); /* it finishes under the old configuration */
    CHECK_EQ(done.decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(old);
    backend_stop(new);
}

CASE(reload_that_fails_consumes_nothing) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    static const struct {
        const char *key, *value;
    } rows[] = {{"threads.io", "2"}, {"threads.callback", "3"}};
    for (size_t i = 0; i < 2; i++) {
        char error[256] = "";
        alta_auth_config *config = config_with(backend_url(b), rows[i].key, rows[i].value, NULL);
        CHECK_EQ(alta_auth_engine_reload(engine, config, error, sizeof error), ALTA_AUTH_ERR_CONFIG);
        CHECK(strstr(error, rows[i].key) != NULL); /* refused by name */
        alta_auth_config_free(config);
    }
    char error[256] = "";
    alta_auth_config *config = alta_auth_config_new();
    set_key(config, "default_action", "allow");
    CHECK_EQ(alta_auth_engine_reload(engine, config, error, sizeof error), ALTA_AUTH_ERR_CONFIG);
    CHECK(strstr(error, "backend.url") != NULL);
    CHECK_EQ(alta_auth_default_action(engine), ALTA_AUTH_DENY);
    set_key(config, "backend.url", backend_url(b));
    reload_ok(engine, config);
    CHECK_EQ(alta_auth_default_action(engine), ALTA_AUTH_ALLOW);
    alta_auth_request request = ask("s", "token=123");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(reload_keeps_memory_only_under_the_same_rules) {
    static const struct {
        const char *key, *value;
        bool kept;
    } rows[] = {
        {"log.level", "error", true},
        {"pool.idle_timeout", "1s", true},
        {"param.x", "1", false},
        {"header.X-Key", "new", false},
        {"protect_params", "ip", false},
        {"scope", "directory", false},
        {"allow_statuses", "200,204", false},
        {"verdict.body", "json:error==0", false},
        {"ttl.headers", "cache-control", false},
        {"ttl.allow", "10s", false},
    };
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_request request = ask("s", "token=123");
    alta_auth_decision decision;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        alta_auth_engine *engine = engine_with(backend_url(b), NULL);
        check_ok(engine, &request);
        reload_ok(engine, config_with(backend_url(b), rows[i].key, rows[i].value, NULL));
        int32_t status = look(engine, &request, &decision);
        if (status != (rows[i].kept ? ALTA_AUTH_OK : ALTA_AUTH_ERR_NOT_FOUND)) {
            fail(__FILE__, __LINE__, "%s = %s: %d", rows[i].key, rows[i].value, (int)status);
        }
        alta_auth_engine_free(engine);
    }
    backend_stop(b);
}

CASE(reload_with_a_lower_ttl_max_cuts_at_once) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    reload_ok(engine, config_with(backend_url(b), "ttl.max", "60s", NULL));
    alta_auth_decision decision;
    int32_t status = look(engine, &request, &decision); /* cut to 60 s, or forgotten: never longer */
    CHECK(status == ALTA_AUTH_ERR_NOT_FOUND || (status == ALTA_AUTH_OK && decision.ttl_ms <= 60000));
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(no_check_joins_an_exchange_from_before_a_reload) {
    backend *b = backend_start();
    reply held = {.status = 200, .hold = true};
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held");
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    reload_ok(engine, config_with(backend_url(b), NULL)); /* not even when nothing changes */
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 2));
    backend_release(b, "held");
    alta_auth_completion done[2];
    reap_all(queue, done, 2);
    CHECK_EQ(done[0].decision.flags, 0);
    CHECK_EQ(done[1].decision.flags, 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(reload_after_shutdown_is_closed) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
    alta_auth_config *config = config_with(backend_url(b), "default_action", "allow", NULL);
    char error[256];
    memset(error, 'x', sizeof error);
    CHECK_EQ(alta_auth_engine_reload(engine, config, error, sizeof error), ALTA_AUTH_ERR_CLOSED);
    CHECK(memchr(error, 0, sizeof error) && strstr(error, "shut down"));
    CHECK_EQ(alta_auth_default_action(engine), ALTA_AUTH_DENY); /* nothing has changed */
    alta_auth_engine_free(engine);
    engine = engine_from(config); /* and the configuration is still the host's */
    alta_auth_request request = ask("s", "token=123");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
