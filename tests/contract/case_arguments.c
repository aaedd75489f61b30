/* What a call refuses: NULL, struct sizes, flags, lengths, bytes. Nothing refused is retained or delivered. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void never(void *user_data, const alta_auth_decision *decision) {
    (void)user_data;
    (void)decision;
    fail(__FILE__, __LINE__, "a refused check was delivered");
}

/* The engine accepted nothing, and after a free that completes all that is pending nothing was delivered. */
static void end_untouched(alta_auth_engine *engine) {
    CHECK_EQ(stats_of(engine).submitted, 0);
    alta_auth_engine_free(engine);
}

/* Whatever was in `text`: the refusal has words, and they end. */
#define EXPLAINED(call)                                                                                                \
    do {                                                                                                               \
        memset(text, 'x', sizeof text);                                                                                \
        CHECK_EQ(call, ALTA_AUTH_ERR_INVALID);                                                                         \
        CHECK(memchr(text, 0, sizeof text) && strstr(text, "argument"));                                               \
    } while (0)

CASE(null_is_refused_everywhere) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_config *config = alta_auth_config_new();
    alta_auth_request request = ask("s", "token=123");
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    alta_auth_completion completion = ALTA_AUTH_COMPLETION_INIT;
    alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
    alta_auth_engine *engine_out = NULL;
    alta_auth_queue *queue_out = NULL;
    uint64_t ticket = 77;
    int32_t statuses[2] = {77, 77};
    char text[64] = "";

    EXPLAINED(alta_auth_config_set(NULL, "timeout", "1s", text, sizeof text));
    EXPLAINED(alta_auth_config_set(config, NULL, "1s", text, sizeof text));
    EXPLAINED(alta_auth_config_set(config, "timeout", NULL, text, sizeof text));
    CHECK_EQ(alta_auth_config_set(config, "timeout", "nonsense", NULL, 0), ALTA_AUTH_ERR_CONFIG);
    EXPLAINED(alta_auth_config_load(NULL, "/nonexistent", text, sizeof text));
    EXPLAINED(alta_auth_config_load(config, NULL, text, sizeof text));
    CHECK_EQ(alta_auth_config_set_log(NULL, NULL, NULL), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_config_set_thread_hooks(NULL, NULL, NULL, NULL), ALTA_AUTH_ERR_INVALID);
    EXPLAINED(alta_auth_engine_new(NULL, &engine_out, text, sizeof text));
    EXPLAINED(alta_auth_engine_new(config, NULL, text, sizeof text));
    CHECK_EQ(alta_auth_engine_new(NULL, &engine_out, NULL, 0), ALTA_AUTH_ERR_INVALID);
    CHECK(engine_out == NULL);
    EXPLAINED(alta_auth_engine_reload(NULL, config, text, sizeof text));
    EXPLAINED(alta_auth_engine_reload(engine, NULL, text, sizeof text));
    CHECK_EQ(alta_auth_engine_drain(NULL, 0), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_engine_shutdown(NULL, 0), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_default_action(NULL), ALTA_AUTH_DENY);

    CHECK_EQ(alta_auth_submit(NULL, &request, never, NULL, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_submit(engine, NULL, never, NULL, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_submit(engine, &request, NULL, NULL, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_check(NULL, &request, &decision), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_check(engine, NULL, &decision), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_check(engine, &request, NULL), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_lookup(NULL, &request, &decision), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_lookup(engine, NULL, &decision), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_lookup(engine, &request, NULL), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_cancel(NULL, 1), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_revoke(NULL, request.session_id), ALTA_AUTH_ERR_INVALID);

    CHECK_EQ(alta_auth_submit_batch(NULL, &request, 1, never, NULL, statuses), 0);
    CHECK_EQ(statuses[0], ALTA_AUTH_ERR_INVALID);
    statuses[0] = 77;
    CHECK_EQ(alta_auth_submit_batch(engine, NULL, 1, never, NULL, statuses), 0);
    CHECK_EQ(statuses[0], ALTA_AUTH_ERR_INVALID);
    statuses[0] = 77;
    CHECK_EQ(alta_auth_submit_batch(engine, &request, 1, NULL, NULL, statuses), 0);
    CHECK_EQ(statuses[0], ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(statuses[1], 77);
    CHECK_EQ(alta_auth_submit_batch(NULL, NULL, 0, NULL, NULL, NULL), 0);

    CHECK_EQ(alta_auth_queue_new(NULL, &queue_out), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_queue_new(engine, NULL), ALTA_AUTH_ERR_INVALID);
    CHECK(queue_out == NULL);
    CHECK_EQ(alta_auth_queue_fd(NULL), -1);
    CHECK_EQ(alta_auth_queue_submit(NULL, &request, NULL, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_queue_submit(queue, NULL, NULL, &ticket), ALTA_AUTH_ERR_INVALID);
    statuses[0] = 77;
    CHECK_EQ(alta_auth_queue_submit_batch(NULL, &request, 1, NULL, statuses), 0);
    CHECK_EQ(statuses[0], ALTA_AUTH_ERR_INVALID);
    statuses[0] = 77;
    CHECK_EQ(alta_auth_queue_submit_batch(queue, NULL, 1, NULL, statuses), 0);
    CHECK_EQ(statuses[0], ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_queue_reap(NULL, &completion, 1), 0);
    CHECK_EQ(alta_auth_queue_reap(queue, NULL, 1), 0);
    CHECK_EQ(alta_auth_queue_reap(queue, &completion, 0), 0);

    CHECK_EQ(alta_auth_stats_read(NULL, &stats), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_stats_read(engine, NULL), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_metrics_text(NULL, text, sizeof text), 0);
    CHECK_EQ(ticket, 77); /* outputs are written on success only */

    alta_auth_config_free(config);
    alta_auth_config_free(NULL);
    alta_auth_queue_free(queue);
    alta_auth_queue_free(NULL);
    alta_auth_engine_free(NULL);
    end_untouched(engine);
    CHECK_EQ(backend_requests(b, NULL), 0);
    backend_stop(b);
}

/* ---- struct_size ---- */

typedef struct wide_request {
    alta_auth_request known;
    unsigned char tail[24];
} wide_request;

static int32_t status_of(alta_auth_engine *engine, alta_auth_queue *queue, const alta_auth_request *request) {
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    uint64_t ticket = 0;
    int32_t statuses[2] = {77, 77};
    int32_t by_submit = alta_auth_submit(engine, request, never, NULL, &ticket);
    CHECK_EQ(alta_auth_queue_submit(queue, request, NULL, &ticket), by_submit);
    CHECK_EQ(alta_auth_check(engine, request, &decision), by_submit);
    CHECK_EQ(alta_auth_lookup(engine, request, &decision), by_submit);
    CHECK_EQ(alta_auth_submit_batch(engine, request, 1, never, NULL, statuses), 0);
    CHECK_EQ(statuses[0], by_submit);
    CHECK_EQ(alta_auth_queue_submit_batch(queue, request, 1, NULL, statuses + 1), 0);
    CHECK_EQ(statuses[1], by_submit);
    CHECK_EQ(ticket, 0);
    return by_submit;
}

CASE(request_struct_size) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    static const uint32_t short_sizes[] = {0, 1, 4, 8, 64, 120, 124, 127};
    for (size_t i = 0; i < sizeof short_sizes / sizeof *short_sizes; i++) {
        alta_auth_request request = ask("s", "token=123");
        request.struct_size = short_sizes[i];
        CHECK_EQ(status_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    }
    for (size_t at = 0; at < sizeof((wide_request *)0)->tail; at++) {
        wide_request wide = {.known = ask("s", "token=123")};
        wide.known.struct_size = sizeof wide;
        wide.tail[at] = 1;
        CHECK_EQ(status_of(engine, queue, &wide.known), ALTA_AUTH_ERR_UNSUPPORTED);
    }
    CHECK_EQ(stats_of(engine).submitted, 0);
    wide_request wide = {.known = ask("s", "token=123")};
    wide.known.struct_size = sizeof wide;
    CHECK_EQ(check_ok(engine, &wide.known).verdict, ALTA_AUTH_ALLOW);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(request_flags_and_reserved) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    for (unsigned bit = 1; bit < 32; bit++) {
        alta_auth_request request = ask("s", "token=123");
        request.flags = 1U << bit;
        CHECK_EQ(status_of(engine, queue, &request), ALTA_AUTH_ERR_UNSUPPORTED);
        request.flags |= ALTA_AUTH_FRESH;
        CHECK_EQ(status_of(engine, queue, &request), ALTA_AUTH_ERR_UNSUPPORTED);
    }
    alta_auth_request request = ask("s", "token=123");
    request.reserved = 1;
    CHECK_EQ(status_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    alta_auth_queue_free(queue);
    end_untouched(engine);
    backend_stop(b);
}

typedef struct wide_decision {
    alta_auth_decision known;
    unsigned char tail[24];
} wide_decision;

CASE(decision_struct_size) {
    backend *b = backend_start();
    reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    static const uint32_t short_sizes[] = {0, 4, 48, 88, 95};
    for (size_t i = 0; i < sizeof short_sizes / sizeof *short_sizes; i++) {
        alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
        decision.struct_size = short_sizes[i];
        decision.verdict = 77;
        CHECK_EQ(alta_auth_check(engine, &request, &decision), ALTA_AUTH_ERR_INVALID);
        CHECK_EQ(alta_auth_lookup(engine, &request, &decision), ALTA_AUTH_ERR_INVALID);
        CHECK_EQ(decision.verdict, 77);
        CHECK_EQ(decision.struct_size, short_sizes[i]);
    }
    CHECK_EQ(backend_requests(b, NULL), 0);
    for (int round = 0; round < 2; round++) { /* check, then lookup */
        wide_decision wide;
        memset(&wide, 0xA5, sizeof wide);
        wide.known.struct_size = sizeof wide;
        CHECK_EQ((round == 0 ? alta_auth_check : alta_auth_lookup)(engine, &request, &wide.known), ALTA_AUTH_OK);
        CHECK_EQ(wide.known.verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(wide.known.struct_size, sizeof wide);
        for (size_t i = 0; i < sizeof wide.tail; i++) {
            CHECK_EQ(wide.tail[i], 0);
        }
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(stats_struct_size) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    struct {
        alta_auth_stats known;
        unsigned char tail[32];
    } wide;
    memset(&wide, 0xA5, sizeof wide);
    wide.known.struct_size = sizeof wide;
    CHECK_EQ(alta_auth_stats_read(engine, &wide.known), ALTA_AUTH_OK);
    CHECK_EQ(wide.known.struct_size, sizeof wide);
    CHECK_EQ(wide.known.submitted, 0);
    CHECK_EQ(wide.known.causes[15], 0);
    for (size_t i = 0; i < sizeof wide.tail; i++) {
        CHECK_EQ(wide.tail[i], 0);
    }
    static const uint32_t short_sizes[] = {0, 8, 160, 280, 287};
    for (size_t i = 0; i < sizeof short_sizes / sizeof *short_sizes; i++) {
        alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
        stats.struct_size = short_sizes[i];
        stats.submitted = 77;
        CHECK_EQ(alta_auth_stats_read(engine, &stats), ALTA_AUTH_ERR_INVALID);
        CHECK_EQ(stats.submitted, 77);
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(misaligned_pointers_are_refused) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    static _Alignas(16) unsigned char room[512];
    alta_auth_request request = ask("s", "token=123");
    void *crooked = room + 1;
    memcpy(crooked, &request, sizeof request);
    CHECK_EQ(status_of(engine, queue, crooked), ALTA_AUTH_ERR_INVALID);
    memset(room, 0, sizeof room);
    uint32_t size = sizeof(alta_auth_decision);
    memcpy(crooked, &size, sizeof size);
    CHECK_EQ(alta_auth_check(engine, &request, crooked), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_lookup(engine, &request, crooked), ALTA_AUTH_ERR_INVALID);
    size = sizeof(alta_auth_stats);
    memcpy(crooked, &size, sizeof size);
    CHECK_EQ(alta_auth_stats_read(engine, crooked), ALTA_AUTH_ERR_INVALID);
    memset(room, 0x55, sizeof room);
    CHECK_EQ(alta_auth_submit(engine, &request, never, NULL, crooked), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_watch(engine, &request, never, NULL, crooked), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, crooked), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_queue_watch(queue, &request, NULL, crooked), ALTA_AUTH_ERR_INVALID);
    int32_t status = 77;
    CHECK_EQ(alta_auth_submit_batch(engine, &request, 1, never, crooked, &status), 0);
    CHECK_EQ(status, ALTA_AUTH_ERR_INVALID);
    status = 77;
    CHECK_EQ(alta_auth_queue_submit_batch(queue, &request, 1, crooked, &status), 0);
    CHECK_EQ(status, ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_submit_batch(engine, &request, 1, never, NULL, crooked), 0);
    CHECK_EQ(alta_auth_queue_submit_batch(queue, &request, 1, NULL, crooked), 0);
    for (size_t i = 0; i < sizeof room; i++) {
        CHECK_EQ(room[i], 0x55); /* nothing was written */
    }
    alta_auth_queue_free(queue);
    end_untouched(engine);
    backend_stop(b);
}

/* ---- the fields ---- */

typedef struct field {
    const char *name;
    size_t offset;
    size_t limit; /* 0: longer is cut, not refused */
} field;

static const field fields[] = {
    {"session_id", offsetof(alta_auth_request, session_id), 1024},
    {"ip", offsetof(alta_auth_request, ip), 1024},
    {"path", offsetof(alta_auth_request, path), 4096},
    {"query", offsetof(alta_auth_request, query), 16384},
    {"origin", offsetof(alta_auth_request, origin), 1024},
    {"user_agent", offsetof(alta_auth_request, user_agent), 0},
    {"scope", offsetof(alta_auth_request, scope), 1024},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static alta_auth_str *field_of(alta_auth_request *request, const field *f) {
    return (alta_auth_str *)(void *)((char *)request + f->offset);
}

CASE(cr_lf_and_nul_are_refused_in_each_field) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    static const char bytes[] = {'\r', '\n', '\0'};
    for (size_t f = 0; f < FIELDS; f++) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            for (size_t at = 0; at < 3; at++) {
                char text[] = "/ab";
                alta_auth_request request = ask("s", "token=123");
                text[at] = bytes[i];
                *field_of(&request, &fields[f]) = (alta_auth_str){text, 3};
                if (status_of(engine, queue, &request) != ALTA_AUTH_ERR_INVALID) {
                    fail(__FILE__, __LINE__, "%s with byte %d at %zu", fields[f].name, bytes[i], at);
                }
            }
        }
    }
    alta_auth_queue_free(queue);
    end_untouched(engine);
    backend_stop(b);
}

CASE(fields_over_their_limits_are_refused) {
    backend *b = backend_start();
    reply allow = {.status = 200};
    backend_rule(b, NULL, allow);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    enum { LONGEST = 100000 };
    char *text = malloc(LONGEST);
    CHECK(text != NULL);
    memset(text, 'a', LONGEST);
    text[0] = '/';
    size_t refused = 0;
    for (size_t f = 0; f < FIELDS; f++) {
        size_t limit = fields[f].limit;
        alta_auth_request request = ask("s", "token=123");
        alta_auth_str *at = field_of(&request, &fields[f]);
        *at = (alta_auth_str){text, limit ? limit : LONGEST};
        alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
        if (alta_auth_check(engine, &request, &decision) != ALTA_AUTH_OK || decision.verdict != ALTA_AUTH_ALLOW) {
            fail(__FILE__, __LINE__, "%s at its limit", fields[f].name);
        }
        if (!limit) {
            continue;
        }
        const size_t over[] = {limit + 1, LONGEST, (size_t)1 << 31, (size_t)1 << 32, SIZE_MAX / 2 + 1, SIZE_MAX};
        for (size_t i = 0; i < sizeof over / sizeof *over; i++) {
            at->len = over[i]; /* far beyond the text: compared with the limit before anything is read */
            if (status_of(engine, queue, &request) != ALTA_AUTH_ERR_INVALID) {
                fail(__FILE__, __LINE__, "%s of %zu bytes", fields[f].name, over[i]);
            }
            CHECK_EQ(alta_auth_watch(engine, &request, never, NULL, NULL), ALTA_AUTH_ERR_INVALID);
            refused += 6; /* all that status_of tries but lookup, and the watch */
        }
    }
    char line[80];
    snprintf(line, sizeof line, "\nalta_auth_checks_invalid_total %zu\n", refused);
    CHECK(alta_auth_metrics_text(engine, text, LONGEST) < LONGEST);
    CHECK(refused > 0 && strstr(text, line) != NULL);
    free(text);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(null_text_is_empty_only_with_length_0) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    for (size_t f = 0; f < FIELDS; f++) {
        alta_auth_request request = ask("s", "token=123");
        *field_of(&request, &fields[f]) = (alta_auth_str){NULL, 1};
        CHECK_EQ(status_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    }
    alta_auth_str nothing = {NULL, 5};
    CHECK_EQ(alta_auth_revoke(engine, nothing), ALTA_AUTH_ERR_INVALID);
    alta_auth_request least = ALTA_AUTH_REQUEST_INIT;
    least.session_id = alta_auth_str_of("only");
    CHECK_EQ(check_ok(engine, &least).verdict, ALTA_AUTH_DENY);
    least.path = (alta_auth_str){"x", 0};
    CHECK_EQ(check_ok(engine, &least).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(backend_requests(b, NULL), 2);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(session_id_is_required) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("", "token=123");
    CHECK_EQ(status_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_ERR_INVALID);
    alta_auth_queue_free(queue);
    end_untouched(engine);
    backend_stop(b);
}

CASE(more_than_256_parameters_are_refused) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    char text[4096] = "token=123";
    for (int i = 1; i < 256; i++) {
        strcat(text, "&a=1");
    }
    alta_auth_request request = ask("s", text);
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    strcat(text, "&a=1");
    request = ask("s", text);
    CHECK_EQ(status_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(path_spellings_are_refused) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_engine *lenient = engine_with(backend_url(b), "path.check", "off", NULL);
    alta_auth_queue *queue = queue_on(engine);
    static const char *const spellings[] = {"/a?b",   "/a#b",      "/a\\b",     "/a/../b",     "/a/./b",   "/..",
                                            "/a%3Fb", "/a%23b",    "/a%5cb",    "/a/%2e%2e/b", "/a/.%2E/b", "/%2e"};
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        alta_auth_request request = ask("s", "token=123");
        request.path = alta_auth_str_of(spellings[i]);
        if (status_of(engine, queue, &request) != ALTA_AUTH_ERR_INVALID) {
            fail(__FILE__, __LINE__, "%s", spellings[i]);
        }
        CHECK_EQ(check_ok(lenient, &request).verdict, ALTA_AUTH_ALLOW);
    }
    alta_auth_request harmless = ask("s", "token=123");
    harmless.path = alta_auth_str_of("/a..b/.hidden/c%20d/...");
    CHECK_EQ(check_ok(engine, &harmless).verdict, ALTA_AUTH_ALLOW);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(lenient);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
