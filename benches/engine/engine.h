/* What the programs that drive the engine share: an engine from `key=value` arguments, and the request of the benchmark. */
#ifndef BENCH_ENGINE_H
#define BENCH_ENGINE_H
#include "../measure.h"
#include <alta_auth.h>

/* Keys after those every measurement has; a later one wins. */
static inline alta_auth_engine *engine_of(const char *url, const char *const *keys, char *const *arguments) {
    char error[512];
    alta_auth_engine *made = NULL;
    alta_auth_config *config = alta_auth_config_new();
    need(config != NULL, "config_new");
#define SET(key, value)                                                              \
    do {                                                                             \
        if (alta_auth_config_set(config, key, value, error, sizeof error) != 0) {     \
            void_run("%s", error);                                                   \
        }                                                                            \
    } while (0)
    SET("backend.url", url);
    SET("default_action", "deny");
    for (; keys != NULL && *keys != NULL; keys += 2) {
        SET(keys[0], keys[1]);
    }
    for (; arguments != NULL && *arguments != NULL; arguments++) {
        char key[128];
        const char *equals = strchr(*arguments, '=');
        need(equals != NULL && (size_t)(equals - *arguments) < sizeof key, "expected key=value");
        memcpy(key, *arguments, (size_t)(equals - *arguments));
        key[equals - *arguments] = 0;
        SET(key, equals + 1);
    }
#undef SET
    if (alta_auth_engine_new(config, &made, error, sizeof error) != 0) {
        void_run("%s", error);
    }
    return made;
}

/* `session`: SESSION_DIGITS bytes that live as long as the request. Its key has 200 bytes or so. */
static inline alta_auth_request request_of(const char *session) {
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    request.session_id = (alta_auth_str){session, SESSION_DIGITS};
    request.ip = (alta_auth_str)ALTA_AUTH_STR(BENCH_IP);
    request.path = (alta_auth_str)ALTA_AUTH_STR(BENCH_PATH);
    request.query = (alta_auth_str)ALTA_AUTH_STR(BENCH_QUERY);
    request.origin = (alta_auth_str)ALTA_AUTH_STR(BENCH_ORIGIN);
    request.user_agent = (alta_auth_str)ALTA_AUTH_STR(BENCH_AGENT);
    return request;
}

static inline void need_backend_allow(const alta_auth_decision *decision) {
    if (decision->verdict != ALTA_AUTH_ALLOW || decision->origin != ALTA_AUTH_ORIGIN_BACKEND) {
        void_run("%s from %s, cause %s: %.*s", alta_auth_verdict_name(decision->verdict),
                 alta_auth_origin_name(decision->origin), alta_auth_cause_name(decision->cause),
                 (int)decision->detail.len, decision->detail.ptr);
    }
}

static inline alta_auth_stats stats_of(const alta_auth_engine *engine) {
    alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
    need(alta_auth_stats_read(engine, &stats) == 0, "stats_read");
    return stats;
}
#endif
