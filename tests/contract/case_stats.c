/* Statistics and metrics. */
#define _GNU_SOURCE
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

CASE(stats_count_each_way_to_end) {
    backend *b = backend_start();
    reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"}, reset = {.kind = REPLY_RESET};
    reply held = {.status = 200, .hold = true};
    backend_rule(b, "123", remembered);
    backend_rule(b, "reset", reset);
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_stats zero = stats_of(engine);
    CHECK_EQ(zero.submitted + zero.completed + zero.cancelled + zero.pending + zero.refused + zero.exchanges, 0);
    CHECK_EQ(zero.struct_size, sizeof zero);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    check_ok(engine, &request);
    request = ask("s", "token=9");
    check_ok(engine, &request);
    request = ask("s", "token=reset");
    check_ok(engine, &request);
    request = ask("s", "token=held");
    uint64_t ticket = 0;
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &ticket), ALTA_AUTH_OK);
    CHECK_EQ(stats_of(engine).pending, 1);
    CHECK_EQ(alta_auth_cancel(engine, ticket), ALTA_AUTH_OK);
    alta_auth_stats s = stats_of(engine);
    CHECK_EQ(s.submitted, 5);
    CHECK_EQ(s.completed, 4);
    CHECK_EQ(s.cancelled, 1);
    CHECK_EQ(s.pending, 0);
    CHECK_EQ(s.refused, 0);
    CHECK_EQ(s.allowed, 2);
    CHECK_EQ(s.denied, 2);
    CHECK_EQ(s.from_backend, 2);
    CHECK_EQ(s.from_memory, 1);
    CHECK_EQ(s.from_last_known, 0);
    CHECK_EQ(s.from_default, 1);
    CHECK_EQ(s.causes[ALTA_AUTH_CAUSE_NONE], 3);
    CHECK_EQ(s.causes[ALTA_AUTH_CAUSE_RESET], 1);
    CHECK_EQ(s.remembered, 1);
    check_sums(&s);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

static bool one_idle(void *engine) {
    alta_auth_stats s = stats_of(engine);
    return s.connections_idle == 1 && s.connections_open == 1;
}

CASE(stats_of_connections) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), "pool.idle_timeout", "60s", NULL);
    for (int i = 0; i < 50; i++) {
        alta_auth_request request = ask("s", i % 2 ? "token=123" : "token=9");
        check_ok(engine, &request);
    }
    CHECK(eventually(one_idle, engine));
    CHECK_EQ(stats_of(engine).connections_opened, 1);
    CHECK_EQ(stats_of(engine).exchanges, 50);
    CHECK_EQ(backend_connections(b), 1);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* Reads while others submit, cancel and reap: the identity holds at every read. */
typedef struct busy {
    alta_auth_engine *engine;
    size_t rounds;
    gate *over;
} busy;

static void *submit_and_cancel(void *context) {
    busy *work = context;
    alta_auth_queue *queue = queue_on(work->engine);
    for (size_t i = 0; i < work->rounds; i++) {
        alta_auth_request request = ask("s", i % 4 ? "token=123" : "token=9");
        uint64_t ticket = 0;
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &ticket), ALTA_AUTH_OK);
        if (i % 3 == 0) {
            alta_auth_cancel(work->engine, ticket);
        }
        alta_auth_completion done[4];
        done[0].struct_size = sizeof done[0];
        alta_auth_queue_reap(queue, done, 4);
    }
    CHECK_EQ(alta_auth_engine_drain(work->engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    alta_auth_queue_free(queue);
    gate_open(work->over);
    return NULL;
}

CASE(stats_identity_at_every_read) {
    backend *b = backend_start();
    reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
    backend_rule(b, "123", remembered);
    busy work = {engine_with(backend_url(b), NULL), parameter("CONTRACT_CHECKS", 100000) / 20, gate_new()};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, submit_and_cancel, &work) == 0);
    uint64_t last = 0;
    while (stats_of(work.engine).submitted < work.rounds) { /* stats_of checks the identity */
        alta_auth_stats s = stats_of(work.engine);
        CHECK(s.submitted >= last);
        last = s.submitted;
    }
    CHECK(gate_wait(work.over));
    pthread_join(thread, NULL);
    alta_auth_stats s = stats_of(work.engine);
    CHECK_EQ(s.submitted, work.rounds);
    CHECK_EQ(s.pending, 0);
    check_sums(&s);
    alta_auth_engine_free(work.engine);
    gate_free(work.over);
    backend_stop(b);
}

CASE(metrics_text_is_like_snprintf) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), "header.X-Key", "CanarySecret", NULL);
    alta_auth_request request = ask("CanarySecretSession", "token=CanarySecretToken");
    check_ok(engine, &request);
    alta_auth_engine_drain(engine, (uint32_t)deadline_ms());
    alta_auth_engine_shutdown(engine, (uint32_t)deadline_ms()); /* quiet: nothing changes between the calls */
    size_t length = alta_auth_metrics_text(engine, NULL, 0);
    CHECK(length > 0);
    char *whole = malloc(length + 1), *part = malloc(length + 1);
    CHECK(whole != NULL && part != NULL);
    CHECK_EQ(alta_auth_metrics_text(engine, whole, length + 1), length);
    CHECK_EQ(strlen(whole), length);
    CHECK(is_utf8(whole));
    CHECK_EQ(whole[length - 1], '\n');
    CHECK(strstr(whole, "# TYPE ") != NULL);
    CHECK(strstr(whole, "CanarySecret") == NULL);
    for (char *line = whole, *end; (end = strchr(line, '\n')); line = end + 1) {
        CHECK(*line == '#' || strncmp(line, "alta_auth_", 10) == 0); /* no empty line, one name space */
    }
    const size_t rooms[] = {0, 1, 2, length / 2, length};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        memset(part, 0x7F, length + 1);
        CHECK_EQ(alta_auth_metrics_text(engine, part, rooms[i]), length);
        if (rooms[i] > 0) {
            CHECK_EQ(part[rooms[i] - 1], '\0');
            CHECK(strncmp(part, whole, rooms[i] - 1) == 0);
        }
        CHECK_EQ(part[rooms[i]], 0x7F);
    }
    free(whole);
    free(part);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(default_action_is_what_was_configured) {
    alta_auth_engine *allow = engine_with("http://127.0.0.1:1/auth", "default_action", "allow", NULL);
    alta_auth_engine *deny = engine_with("http://127.0.0.1:1/auth", NULL);
    CHECK_EQ(alta_auth_default_action(allow), ALTA_AUTH_ALLOW);
    CHECK_EQ(alta_auth_default_action(deny), ALTA_AUTH_DENY);
    alta_auth_engine_free(allow);
    alta_auth_engine_free(deny);
}
