/* Watches together with the rest: reload, timeouts, kept decisions, users that change, many of them. */
#define _GNU_SOURCE
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-42\r\n"};
static const reply brief = {.status = 200, .headers = "X-AuthDuration: 1\r\n"};
static const reply allowed = {.status = 200}, refused = {.status = 403}, reset = {.kind = REPLY_RESET};

#define OFTEN "watch.interval", "20ms"

CASE(reload_turns_open_watches_to_the_new_backend) {
    backend *old = backend_start(), *new = backend_start();
    backend_rule(old, "123", allowed);
    backend_rule(new, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(old), OFTEN, NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer called, reaped;
    viewer_init(&called);
    viewer_init(&reaped);
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=123");
    open_watch(engine, &one, &called);
    open_queue_watch(queue, &two, &reaped);
    told(&called, 1);
    told_by(queue, &reaped, 1);
    char error[256] = "";
    alta_auth_config *config = config_with(backend_url(new), OFTEN, "watch.max", "2", NULL);
    CHECK_EQ(alta_auth_engine_reload(engine, config, error, sizeof error), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(new, "123", 4));
    size_t asked = backend_requests(old, "123");
    asked_again(new, "123", 6);
    CHECK(backend_requests(old, "123") <= asked + 2); /* what was under way, one for each */
    CHECK_EQ(told_count(&called), 1);                 /* a reload is no change */
    CHECK_EQ(reap_told(queue), 0);
    uint64_t untouched = 77;
    CHECK_EQ(alta_auth_queue_watch(queue, &one, NULL, &untouched), ALTA_AUTH_ERR_FULL); /* the new watch.max */
    CHECK_EQ(untouched, 77);
    backend_rule(new, "123", refused);
    CHECK_EQ(told(&called, 2).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(told_by(queue, &reaped, 2).verdict, ALTA_AUTH_DENY);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(old);
    backend_stop(new);
}

CASE(reload_that_forgets_asks_about_watches_again) {
    backend *old = backend_start(), *new = backend_start();
    backend_rule(old, "123", remembered);
    backend_rule(new, "123", refused);
    alta_auth_engine *engine = engine_with(backend_url(old), NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    told(&v, 1);
    char error[256] = "";
    alta_auth_config *config = config_with(backend_url(new), NULL);
    CHECK_EQ(alta_auth_engine_reload(engine, config, error, sizeof error), ALTA_AUTH_OK);
    alta_auth_decision decision = told(&v, 2); /* long before the 600 s that the other allowed */
    check_told(&decision, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    alta_auth_engine_free(engine);
    backend_stop(old);
    backend_stop(new);
}

CASE(watch_of_a_backend_that_hangs_is_told_after_the_timeout) {
    backend *b = backend_start();
    reply held = {.status = 200, .hold = true};
    backend_rule(b, "123", allowed);
    char timeout[16];
    snprintf(timeout, sizeof timeout, "%dms", scaled_ms(1500));
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, "timeout", timeout, NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    told(&v, 1);
    backend_rule(b, "123", held);
    alta_auth_decision decision = told(&v, 2);
    check_told(&decision, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_DEFAULT, ALTA_AUTH_CAUSE_TIMEOUT, 0);
    backend_rule(b, "123", allowed);
    decision = told(&v, 3);
    check_told(&decision, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(watch_of_what_was_remembered_is_asked_at_its_end) {
    backend *b = backend_start();
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    uint64_t before = now_ns();
    check_ok(engine, &request);
    backend_rule(b, "123", refused);
    open_watch(engine, &request, &v);
    if (told(&v, 1).origin == ALTA_AUTH_ORIGIN_MEMORY) { /* unless this machine took a second for it */
        CHECK_EQ(told(&v, 2).verdict, ALTA_AUTH_DENY);
        CHECK(now_ns() - before >= 1000000000U);
    }
    CHECK_EQ(backend_requests(b, "123"), 2);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* A backend like Ministra refuses its own token later: who watches is in use, and keeps the allow. */
CASE(watch_with_expired_keep_is_not_asked_about) {
    backend *b = backend_start();
    backend_rule(b, "123", brief);
    alta_auth_engine *engine = engine_with(backend_url(b), "refresh", "never", "expired", "keep", OFTEN, NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    told(&v, 1);
    backend_rule(b, "123", refused);
    pass_ms(3500);
    CHECK_EQ(backend_requests(b, "123"), 1);
    CHECK_EQ(told_count(&v), 1);
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW); /* and so does a check of the same */
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK); /* as docs/backends.md says to */
    CHECK_EQ(told_last(&v).verdict, ALTA_AUTH_DENY);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoke_user_means_the_user_that_a_watch_has_now) {
    backend *b = backend_start();
    reply other = {.status = 200, .headers = "X-UserId: user-43\r\n"}, first = {.status = 200,
                                                                               .headers = "X-UserId: user-42\r\n"};
    backend_rule(b, "123", first);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, NULL);
    viewer v;
    viewer_init(&v);
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &v);
    CHECK(text_is(told(&v, 1).user_id, "user-42"));
    backend_rule(b, "123", other);
    CHECK(text_is(told(&v, 2).user_id, "user-43"));
    CHECK_EQ(alta_auth_revoke_user(engine, alta_auth_str_of("user-42")), ALTA_AUTH_OK);
    asked_again(b, "123", 3);
    CHECK_EQ(told_count(&v), 2);
    CHECK_EQ(alta_auth_revoke_user(engine, alta_auth_str_of("user-43")), ALTA_AUTH_OK);
    CHECK_EQ(told_last(&v).verdict, ALTA_AUTH_DENY);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&v), 3);
    backend_stop(b);
}

CASE(watch_of_a_session_that_was_revoked_before) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), OFTEN, "default_action", "allow", "last_known", "10m", NULL);
    viewer views[3];
    for (size_t i = 0; i < 3; i++) {
        viewer_init(&views[i]);
    }
    alta_auth_request request = ask("s", "token=123");
    open_watch(engine, &request, &views[0]);
    told(&views[0], 1);
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    told_last(&views[0]);
    backend_rule(b, "123", reset);
    open_watch(engine, &request, &views[1]); /* in an outage: neither last known nor the default allow */
    alta_auth_decision decision = told(&views[1], 1);
    check_told(&decision, ALTA_AUTH_DENY, ALTA_AUTH_ORIGIN_DEFAULT, ALTA_AUTH_CAUSE_RESET, 0);
    backend_rule(b, "123", remembered); /* the backend itself may let it in again */
    decision = told(&views[1], 2);
    check_told(&decision, ALTA_AUTH_ALLOW, ALTA_AUTH_ORIGIN_BACKEND, ALTA_AUTH_CAUSE_NONE, 0);
    open_watch(engine, &request, &views[2]);
    CHECK_EQ(told(&views[2], 1).verdict, ALTA_AUTH_ALLOW);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* Told at once, however many there are and however seldom the backend may be asked. */
CASE(many_watches_are_told_of_a_revocation_at_once) {
    size_t count = parameter("CONTRACT_CHECKS", 100000) / 50;
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), "watch.max_rate", "1", NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer *views = calloc(count, sizeof *views);
    CHECK(views != NULL);
    size_t taken = 0;
    for (size_t i = 0; i < count; i++) {
        char session[24];
        snprintf(session, sizeof session, "s%zu", i);
        alta_auth_request request = ask(session, "token=123");
        viewer_init(&views[i]);
        if (i % 2) {
            open_queue_watch(queue, &request, &views[i]);
        } else {
            open_watch(engine, &request, &views[i]);
        }
    }
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ((i % 2 ? told_by(queue, &views[i], 1) : told(&views[i], 1)).verdict, ALTA_AUTH_ALLOW);
    }
    CHECK_EQ(alta_auth_revoke_all(engine), ALTA_AUTH_OK);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ((i % 2 ? told_by(queue, &views[i], 2) : told(&views[i], 2)).verdict, ALTA_AUTH_DENY);
        taken += views[i].over;
    }
    CHECK_EQ(taken, count);
    CHECK_EQ(backend_requests(b, NULL), count);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    free(views);
    backend_stop(b);
}
