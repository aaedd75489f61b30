/* What this engine learns elsewhere reaches an open watch. */
#define _GNU_SOURCE
#include "live.h"

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"}, refused = {.status = 403};

/* README: ttl.max is "Upper bound on every reuse, whoever asked for it"; THREATS.md: "a lower ttl.max cuts at once". */
CASE(reload_with_a_lower_ttl_max_cuts_what_a_watch_holds) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    told(&v, 1);
    backend_rule(b, "123", refused);
    char error[256] = "";
    alta_auth_config *config = config_with(backend_url(b), "ttl.max", "1s", NULL);
    CHECK_EQ(alta_auth_engine_reload(engine, config, error, sizeof error), ALTA_AUTH_OK);
    alta_auth_decision decision = told(&v, 2);
    check_told(&decision, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/*
 * Header: called "for the first decision and then for each change of it". docs/protocol.md: "Each answer replaces what
 * was remembered for its question"; THREATS.md: "an old allow survives a newer deny".
 */
CASE(watch_is_told_what_the_backend_says_to_a_check_of_its_question) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123"), fresh = request;
    fresh.flags = ALTA_AUTH_FRESH;
    open_watch(engine, &request, &v);
    told(&v, 1);
    backend_rule(b, "123", refused);
    CHECK_EQ(check_ok(engine, &fresh).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(told(&v, 2).verdict, ALTA_AUTH_DENY);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
