/* The types, numbers, names and initialisers of the header, as a program compiled long ago knows them (LP64). */
#include "support.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(void *) == 8 && sizeof(size_t) == 8 && CHAR_BIT == 8, "the offsets below are those of LP64");

#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)
#define FIELD_IS(type, field, as)                                                                                      \
    _Static_assert(_Generic(((type *)0)->field, as: 1, default: 0) == 1, #type "." #field " is " #as)

_Static_assert(sizeof(alta_auth_str) == 16, "alta_auth_str");
AT(alta_auth_str, ptr, 0);
AT(alta_auth_str, len, 8);
FIELD_IS(alta_auth_str, ptr, const char *);
FIELD_IS(alta_auth_str, len, size_t);

_Static_assert(sizeof(alta_auth_request) == 128, "alta_auth_request");
AT(alta_auth_request, struct_size, 0);
AT(alta_auth_request, flags, 4);
AT(alta_auth_request, session_id, 8);
AT(alta_auth_request, ip, 24);
AT(alta_auth_request, path, 40);
AT(alta_auth_request, query, 56);
AT(alta_auth_request, origin, 72);
AT(alta_auth_request, user_agent, 88);
AT(alta_auth_request, scope, 104);
AT(alta_auth_request, timeout_ms, 120);
AT(alta_auth_request, reserved, 124);
FIELD_IS(alta_auth_request, struct_size, uint32_t);
FIELD_IS(alta_auth_request, flags, uint32_t);
FIELD_IS(alta_auth_request, session_id, alta_auth_str);
FIELD_IS(alta_auth_request, timeout_ms, uint32_t);
FIELD_IS(alta_auth_request, reserved, uint32_t);

_Static_assert(sizeof(alta_auth_decision) == 96, "alta_auth_decision");
AT(alta_auth_decision, struct_size, 0);
AT(alta_auth_decision, verdict, 4);
AT(alta_auth_decision, origin, 8);
AT(alta_auth_decision, cause, 12);
AT(alta_auth_decision, flags, 16);
AT(alta_auth_decision, http_status, 20);
AT(alta_auth_decision, ttl_ms, 24);
AT(alta_auth_decision, max_sessions, 28);
AT(alta_auth_decision, latency_ns, 32);
AT(alta_auth_decision, ticket, 40);
AT(alta_auth_decision, user_id, 48);
AT(alta_auth_decision, location, 64);
AT(alta_auth_decision, detail, 80);
FIELD_IS(alta_auth_decision, struct_size, uint32_t);
FIELD_IS(alta_auth_decision, verdict, int32_t);
FIELD_IS(alta_auth_decision, origin, int32_t);
FIELD_IS(alta_auth_decision, cause, int32_t);
FIELD_IS(alta_auth_decision, flags, uint32_t);
FIELD_IS(alta_auth_decision, http_status, uint32_t);
FIELD_IS(alta_auth_decision, ttl_ms, uint32_t);
FIELD_IS(alta_auth_decision, max_sessions, uint32_t);
FIELD_IS(alta_auth_decision, latency_ns, uint64_t);
FIELD_IS(alta_auth_decision, ticket, uint64_t);

_Static_assert(sizeof(alta_auth_completion) == 112, "alta_auth_completion");
AT(alta_auth_completion, struct_size, 0);
AT(alta_auth_completion, reserved, 4);
AT(alta_auth_completion, user_data, 8);
AT(alta_auth_completion, decision, 16);
FIELD_IS(alta_auth_completion, user_data, void *);
FIELD_IS(alta_auth_completion, decision, alta_auth_decision);

_Static_assert(sizeof(alta_auth_stats) == 288, "alta_auth_stats");
AT(alta_auth_stats, struct_size, 0);
AT(alta_auth_stats, reserved, 4);
AT(alta_auth_stats, submitted, 8);
AT(alta_auth_stats, completed, 16);
AT(alta_auth_stats, cancelled, 24);
AT(alta_auth_stats, pending, 32);
AT(alta_auth_stats, refused, 40);
AT(alta_auth_stats, allowed, 48);
AT(alta_auth_stats, denied, 56);
AT(alta_auth_stats, from_backend, 64);
AT(alta_auth_stats, from_memory, 72);
AT(alta_auth_stats, from_last_known, 80);
AT(alta_auth_stats, from_default, 88);
AT(alta_auth_stats, coalesced, 96);
AT(alta_auth_stats, exchanges, 104);
AT(alta_auth_stats, retries, 112);
AT(alta_auth_stats, connections_opened, 120);
AT(alta_auth_stats, connections_open, 128);
AT(alta_auth_stats, connections_idle, 136);
AT(alta_auth_stats, remembered, 144);
AT(alta_auth_stats, revoked, 152);
AT(alta_auth_stats, causes, 160);
FIELD_IS(alta_auth_stats, submitted, uint64_t);
_Static_assert(sizeof(((alta_auth_stats *)0)->causes) == 16 * sizeof(uint64_t), "alta_auth_stats.causes");

static const struct {
    int32_t value;
    int32_t expected;
    const char *name;
    const char *(*name_of)(int32_t);
} numbers[] = {
#define ROW(constant, expected, of) {constant, expected, #constant, of}
    ROW(ALTA_AUTH_OK, 0, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_INVALID, -1, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_CONFIG, -2, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_FULL, -3, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_CLOSED, -4, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_TIMEOUT, -5, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_NOT_FOUND, -6, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_THREAD, -7, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_FORKED, -8, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_UNSUPPORTED, -9, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_SYSTEM, -10, alta_auth_status_name),
    ROW(ALTA_AUTH_ERR_INTERNAL, -11, alta_auth_status_name),
    ROW(ALTA_AUTH_DENY, 0, alta_auth_verdict_name),
    ROW(ALTA_AUTH_ALLOW, 1, alta_auth_verdict_name),
    ROW(ALTA_AUTH_ORIGIN_BACKEND, 0, alta_auth_origin_name),
    ROW(ALTA_AUTH_ORIGIN_MEMORY, 1, alta_auth_origin_name),
    ROW(ALTA_AUTH_ORIGIN_LAST_KNOWN, 2, alta_auth_origin_name),
    ROW(ALTA_AUTH_ORIGIN_DEFAULT, 3, alta_auth_origin_name),
    ROW(ALTA_AUTH_CAUSE_NONE, 0, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_RESOLVE, 1, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_CONNECT, 2, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_TLS, 3, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_TIMEOUT, 4, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_RESET, 5, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_PROTOCOL, 6, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_STATUS, 7, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_BREAKER_OPEN, 8, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_OVERLOAD, 9, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_SHUTDOWN, 10, alta_auth_cause_name),
    ROW(ALTA_AUTH_CAUSE_INTERNAL, 11, alta_auth_cause_name),
#undef ROW
};

CASE(numbers_and_names) {
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i].value != numbers[i].expected) {
            fail(__FILE__, __LINE__, "%s is %d, not %d", numbers[i].name, (int)numbers[i].value,
                 (int)numbers[i].expected);
        }
        CHECK_TEXT(numbers[i].name_of(numbers[i].expected), numbers[i].name);
    }
    CHECK_EQ(ALTA_AUTH_FRESH, 1);
    CHECK_EQ(ALTA_AUTH_COALESCED, 1);
    CHECK_EQ(ALTA_AUTH_UNIQUE, 2);
    CHECK_EQ(ALTA_AUTH_LOG_ERROR, 1);
    CHECK_EQ(ALTA_AUTH_LOG_WARN, 2);
    CHECK_EQ(ALTA_AUTH_LOG_INFO, 3);
    CHECK_EQ(ALTA_AUTH_LOG_DEBUG, 4);
}

CASE(names_of_unknown_values) {
    static const int32_t strangers[] = {1, -12, 12, 4, 2, 99, -99, INT32_MAX, INT32_MIN};
    const char *(*const of[])(int32_t) = {alta_auth_status_name, alta_auth_verdict_name, alta_auth_origin_name,
                                          alta_auth_cause_name};
    const int32_t least[] = {-11, 0, 0, 0};
    const int32_t most[] = {0, 1, 3, 11};
    for (size_t f = 0; f < 4; f++) {
        for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
            if (strangers[i] < least[f] || strangers[i] > most[f]) {
                CHECK_TEXT(of[f](strangers[i]), "ALTA_AUTH_UNKNOWN");
            }
        }
    }
}

CASE(constants_are_constant_expressions) {
    switch ((int32_t)-3) {
    case ALTA_AUTH_OK:
    case ALTA_AUTH_ERR_INVALID:
    case ALTA_AUTH_ERR_INTERNAL:
        CHECK(false);
        break;
    case ALTA_AUTH_ERR_FULL:
        break;
    default:
        CHECK(false);
    }
    _Static_assert(ALTA_AUTH_CAUSE_SHUTDOWN < 16, "stats.causes has a place for each");
}

CASE(version_macros_and_functions_agree) {
    char text[64];
    uint32_t number = (uint32_t)ALTA_AUTH_VERSION_MAJOR << 16 | (uint32_t)ALTA_AUTH_VERSION_MINOR << 8 |
                      (uint32_t)ALTA_AUTH_VERSION_PATCH;
    CHECK_EQ(ALTA_AUTH_VERSION_NUMBER, number);
    CHECK_EQ(alta_auth_version_number(), number);
    snprintf(text, sizeof text, "%d.%d.%d", (int)ALTA_AUTH_VERSION_MAJOR, (int)ALTA_AUTH_VERSION_MINOR,
             (int)ALTA_AUTH_VERSION_PATCH);
    CHECK(strncmp(alta_auth_version(), text, strlen(text)) == 0); /* a pre-release suffix may follow */
}

static const alta_auth_str static_text = ALTA_AUTH_STR("abc");
static const alta_auth_request static_request = ALTA_AUTH_REQUEST_INIT;
static const alta_auth_decision static_decision = ALTA_AUTH_DECISION_INIT;
static const alta_auth_completion static_completion = ALTA_AUTH_COMPLETION_INIT;
static const alta_auth_stats static_stats = ALTA_AUTH_STATS_INIT;

static bool zero_after(const void *object, size_t size) {
    const unsigned char *bytes = object;
    for (size_t i = sizeof(uint32_t); i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

CASE(initialisers) {
    CHECK(text_is(static_text, "abc"));
    alta_auth_str fields[] = {ALTA_AUTH_STR(""), ALTA_AUTH_STR("a\0b")};
    CHECK_EQ(fields[0].len, 0);
    CHECK_EQ(fields[1].len, 3);
    CHECK(text_is(alta_auth_str_of("abc"), "abc"));
    CHECK_EQ(alta_auth_str_of("").len, 0);
    CHECK_EQ(static_request.struct_size, sizeof static_request);
    CHECK_EQ(static_decision.struct_size, sizeof static_decision);
    CHECK_EQ(static_completion.struct_size, sizeof static_completion);
    CHECK_EQ(static_stats.struct_size, sizeof static_stats);
    CHECK(zero_after(&static_request, sizeof static_request));
    CHECK(zero_after(&static_decision, sizeof static_decision));
    CHECK(zero_after(&static_stats, sizeof static_stats));
    CHECK_EQ(static_completion.reserved, 0);
    CHECK(static_completion.user_data == NULL);
    CHECK_EQ(static_completion.decision.verdict, ALTA_AUTH_DENY); /* the decision's own size may be either */
    CHECK(zero_after(&static_completion.decision, sizeof static_completion.decision));
}

/* Each function has exactly the published type: the assignments below do not compile otherwise. */
CASE(prototypes) {
    const char *(*version)(void) = alta_auth_version;
    uint32_t (*version_number)(void) = alta_auth_version_number;
    alta_auth_config *(*config_new)(void) = alta_auth_config_new;
    int32_t (*config_set)(alta_auth_config *, const char *, const char *, char *, size_t) = alta_auth_config_set;
    int32_t (*config_load)(alta_auth_config *, const char *, char *, size_t) = alta_auth_config_load;
    int32_t (*config_set_log)(alta_auth_config *, alta_auth_log, void *) = alta_auth_config_set_log;
    int32_t (*config_set_thread_hooks)(alta_auth_config *, void (*)(void *), void (*)(void *), void *) =
        alta_auth_config_set_thread_hooks;
    void (*config_free)(alta_auth_config *) = alta_auth_config_free;
    int32_t (*engine_new)(alta_auth_config *, alta_auth_engine **, char *, size_t) = alta_auth_engine_new;
    int32_t (*engine_reload)(alta_auth_engine *, alta_auth_config *, char *, size_t) = alta_auth_engine_reload;
    int32_t (*engine_drain)(alta_auth_engine *, uint32_t) = alta_auth_engine_drain;
    int32_t (*engine_shutdown)(alta_auth_engine *, uint32_t) = alta_auth_engine_shutdown;
    void (*engine_free)(alta_auth_engine *) = alta_auth_engine_free;
    int32_t (*default_action)(const alta_auth_engine *) = alta_auth_default_action;
    int32_t (*submit)(alta_auth_engine *, const alta_auth_request *, alta_auth_callback, void *, uint64_t *) =
        alta_auth_submit;
    size_t (*submit_batch)(alta_auth_engine *, const alta_auth_request *, size_t, alta_auth_callback, void *const *,
                           int32_t *) = alta_auth_submit_batch;
    int32_t (*check)(alta_auth_engine *, const alta_auth_request *, alta_auth_decision *) = alta_auth_check;
    int32_t (*lookup)(alta_auth_engine *, const alta_auth_request *, alta_auth_decision *) = alta_auth_lookup;
    int32_t (*cancel)(alta_auth_engine *, uint64_t) = alta_auth_cancel;
    int32_t (*revoke)(alta_auth_engine *, alta_auth_str) = alta_auth_revoke;
    int32_t (*queue_new)(alta_auth_engine *, alta_auth_queue **) = alta_auth_queue_new;
    int (*queue_fd)(const alta_auth_queue *) = alta_auth_queue_fd;
    int32_t (*queue_submit)(alta_auth_queue *, const alta_auth_request *, void *, uint64_t *) = alta_auth_queue_submit;
    size_t (*queue_submit_batch)(alta_auth_queue *, const alta_auth_request *, size_t, void *const *, int32_t *) =
        alta_auth_queue_submit_batch;
    size_t (*queue_reap)(alta_auth_queue *, alta_auth_completion *, size_t) = alta_auth_queue_reap;
    void (*queue_free)(alta_auth_queue *) = alta_auth_queue_free;
    int32_t (*stats_read)(const alta_auth_engine *, alta_auth_stats *) = alta_auth_stats_read;
    size_t (*metrics_text)(const alta_auth_engine *, char *, size_t) = alta_auth_metrics_text;
    void (*callback)(void *, const alta_auth_decision *) = on_decision;
    alta_auth_callback as_callback = callback;
    CHECK(version && version_number && config_new && config_set && config_load && config_set_log);
    CHECK(config_set_thread_hooks && config_free && engine_new && engine_reload && engine_drain && engine_shutdown);
    CHECK(engine_free && default_action && submit && submit_batch && check && lookup && cancel && revoke && queue_new);
    CHECK(queue_fd && queue_submit && queue_submit_batch && queue_reap && queue_free && stats_read && metrics_text);
    CHECK(as_callback == on_decision);
}
