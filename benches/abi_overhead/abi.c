/*
 * One half of the comparison of `make bench-abi`: checks through the C ABI. rust.rs does the same work through the
 * Rust API; measure says how the two are compared.
 *
 *     abi URL CHECKS
 *
 * Distinct sessions, so that no two checks share a request; never more than 64 in flight. After each poll all that
 * waits is reaped, and as many checks are submitted again. Each decision must be the backend's own.
 */
#define _POSIX_C_SOURCE 200809L
#include <alta_auth.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { IN_FLIGHT = 64 };

static void need(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "abi: %s\n", what);
        exit(1);
    }
}

static long long micros(struct timeval t) {
    return (long long)t.tv_sec * 1000000 + t.tv_usec;
}

int main(int argc, char **argv) {
    need(argc == 3, "usage: abi URL CHECKS");
    size_t checks = (size_t)strtoul(argv[2], NULL, 10), submitted = 0, reaped = 0;
    alta_auth_config *config = alta_auth_config_new();
    alta_auth_engine *engine = NULL;
    alta_auth_queue *queue = NULL;
    need(alta_auth_config_set(config, "backend.url", argv[1], NULL, 0) == ALTA_AUTH_OK, "backend.url");
    need(alta_auth_config_set(config, "default_action", "deny", NULL, 0) == ALTA_AUTH_OK, "default_action");
    need(alta_auth_config_set(config, "timeout", "60s", NULL, 0) == ALTA_AUTH_OK, "timeout");
    need(alta_auth_config_set(config, "pool.max_connections", "64", NULL, 0) == ALTA_AUTH_OK, "pool.max_connections");
    need(alta_auth_engine_new(config, &engine, NULL, 0) == ALTA_AUTH_OK, "engine_new");
    need(alta_auth_queue_new(engine, &queue) == ALTA_AUTH_OK, "queue_new");
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    request.ip = alta_auth_str_of("192.0.2.1");
    request.path = alta_auth_str_of("/live/index.m3u8");
    request.query = alta_auth_str_of("token=123");
    char session[] = "session-000000000";
    request.session_id = alta_auth_str_of(session);
    struct pollfd readable = {alta_auth_queue_fd(queue), POLLIN, 0};
    while (reaped < checks) {
        while (submitted < checks && submitted - reaped < IN_FLIGHT) {
            for (size_t digit = sizeof session - 2; ++session[digit] > '9'; digit--) {
                session[digit] = '0';
            }
            submitted++;
            need(alta_auth_queue_submit(queue, &request, (void *)submitted, NULL) == ALTA_AUTH_OK, "submit");
        }
        need(poll(&readable, 1, 60000) == 1, "poll");
        alta_auth_completion done[IN_FLIGHT] = {ALTA_AUTH_COMPLETION_INIT};
        size_t count = alta_auth_queue_reap(queue, done, IN_FLIGHT);
        for (size_t i = 0; i < count; i++) {
            need(done[i].decision.verdict == ALTA_AUTH_ALLOW, "not allowed");
            need(done[i].decision.origin == ALTA_AUTH_ORIGIN_BACKEND, "not asked");
        }
        reaped += count;
    }
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%lld %lld\n", micros(used.ru_utime), micros(used.ru_stime));
    return 0;
}
