/* Revocation by user and of everyone: what is forgotten, what is not, and what an answer in flight may not undo. */
#define _GNU_SOURCE
#include "support.h"

#include <stdlib.h>
#include <string.h>

static const reply user_42 = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-42\r\n"};
static const reply user_43 = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-43\r\n"};
static const reply nobody = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
static const reply reset = {.kind = REPLY_RESET};

static int32_t look(alta_auth_engine *engine, const alta_auth_request *request) {
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    return alta_auth_lookup(engine, request, &decision);
}

static int32_t revoke_42(alta_auth_engine *engine) {
    return alta_auth_revoke_user(engine, alta_auth_str_of("user-42"));
}

/* Two sessions of user 42, one refused to that user, one of user 43, one of no user. */
enum { QUESTIONS = 5 };

static void questions(backend *b, alta_auth_request *out) {
    static const reply no_42 = {.status = 403, .headers = "X-AuthDuration: 60\r\nX-UserId: user-42\r\n"};
    static const char *const sessions[QUESTIONS] = {"a", "b", "c", "d", "e"};
    static const char *const queries[QUESTIONS] = {"token=42", "token=42&x=1", "token=no42", "token=43", "token=none"};
    backend_rule(b, "42", user_42);
    backend_rule(b, "no42", no_42);
    backend_rule(b, "43", user_43);
    backend_rule(b, "none", nobody);
    for (size_t i = 0; i < QUESTIONS; i++) {
        out[i] = ask(sessions[i], queries[i]);
    }
}

static void forgets(bool all) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request[QUESTIONS];
    questions(b, request);
    for (size_t i = 0; i < QUESTIONS; i++) {
        check_ok(engine, &request[i]);
        CHECK_EQ(look(engine, &request[i]), ALTA_AUTH_OK);
    }
    uint64_t before = stats_of(engine).revoked;
    CHECK_EQ(alta_auth_revoke_user(engine, alta_auth_str_of("never heard of")), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_revoke_user(engine, alta_auth_str_of("user-4")), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_revoke_user(engine, alta_auth_str_of("a")), ALTA_AUTH_OK); /* a session's id is no user's */
    for (size_t i = 0; i < QUESTIONS; i++) {
        CHECK_EQ(look(engine, &request[i]), ALTA_AUTH_OK);
    }
    CHECK_EQ(all ? alta_auth_revoke_all(engine) : revoke_42(engine), ALTA_AUTH_OK);
    CHECK_EQ(stats_of(engine).revoked, before + 4);
    for (size_t i = 0; i < QUESTIONS; i++) {
        CHECK_EQ(look(engine, &request[i]), all || i < 3 ? ALTA_AUTH_ERR_NOT_FOUND : ALTA_AUTH_OK);
    }
    size_t asked = backend_requests(b, NULL);
    for (size_t i = 0; i < QUESTIONS; i++) {
        alta_auth_decision decision = check_ok(engine, &request[i]);
        CHECK_EQ(decision.origin, all || i < 3 ? ALTA_AUTH_ORIGIN_BACKEND : ALTA_AUTH_ORIGIN_MEMORY);
        CHECK_EQ(decision.verdict, i == 2 ? ALTA_AUTH_DENY : ALTA_AUTH_ALLOW);
        CHECK_EQ(look(engine, &request[i]), ALTA_AUTH_OK); /* a new answer is remembered again */
    }
    CHECK_EQ(backend_requests(b, NULL), asked + (all ? 5 : 3));
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoke_user_forgets_that_user_in_every_session) {
    forgets(false);
}

CASE(revoke_all_forgets_everything) {
    forgets(true);
}

/* The revocation comes while the backend holds its answer back. */
static void in_flight(bool all) {
    backend *b = backend_start();
    reply late = user_42, late_43 = user_43;
    late.hold = late_43.hold = true;
    backend_rule(b, "held", late);
    backend_rule(b, "held43", late_43);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held"), other = ask("o", "token=held43");
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(queue, &other, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1) && backend_wait_requests(b, "held43", 1));
    CHECK_EQ(all ? alta_auth_revoke_all(engine) : revoke_42(engine), ALTA_AUTH_OK);
    backend_release(b, "held");
    backend_release(b, "held43");
    alta_auth_completion done[2];
    reap_all(queue, done, 2);
    for (size_t i = 0; i < 2; i++) { /* delivered, exactly once ... */
        CHECK_EQ(done[i].decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    }
    CHECK_EQ(look(engine, &request), ALTA_AUTH_ERR_NOT_FOUND); /* ... and not remembered */
    CHECK_EQ(look(engine, &other), all ? ALTA_AUTH_ERR_NOT_FOUND : ALTA_AUTH_OK);
    CHECK_EQ(check_ok(engine, &request).origin, ALTA_AUTH_ORIGIN_BACKEND);
    CHECK_EQ(look(engine, &request), ALTA_AUTH_OK); /* what was asked after it is */
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoke_user_during_a_flight) {
    in_flight(false);
}

CASE(revoke_all_during_a_flight) {
    in_flight(true);
}

CASE(no_check_joins_an_exchange_from_before_a_revoke_all) {
    backend *b = backend_start();
    reply late = user_42;
    late.hold = true;
    backend_rule(b, "held", late);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held");
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK_EQ(alta_auth_revoke_all(engine), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 2));
    backend_release(b, "held");
    alta_auth_completion both[2];
    reap_all(queue, both, 2);
    CHECK_EQ(both[0].decision.flags | both[1].decision.flags, 0); /* neither shared the other's */
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

typedef struct looking {
    alta_auth_engine *engine;
    const alta_auth_request *request;
} looking;

static bool is_forgotten(void *context) {
    const looking *l = context;
    return look(l->engine, l->request) == ALTA_AUTH_ERR_NOT_FOUND;
}

/* In an outage the revoked get neither what was known last nor a default action that lets them in. */
static void in_an_outage(bool all, const char *last_known) {
    backend *b = backend_start();
    reply brief_42 = {.status = 200, .headers = "X-AuthDuration: 1\r\nX-UserId: user-42\r\n"};
    reply brief_43 = {.status = 200, .headers = "X-AuthDuration: 1\r\nX-UserId: user-43\r\n"};
    backend_rule(b, "42", brief_42);
    backend_rule(b, "43", brief_43);
    backend_rule(b, "new", reset);
    alta_auth_engine *engine =
        engine_with(backend_url(b), "default_action", "allow", "last_known", last_known, NULL);
    alta_auth_request request = ask("a", "token=42"), other = ask("b", "token=43"), fresh = ask("c", "token=new");
    check_ok(engine, &request);
    check_ok(engine, &other);
    looking one = {engine, &request}, two = {engine, &other};
    CHECK(eventually(is_forgotten, &one) && eventually(is_forgotten, &two));
    backend_rule(b, "42", reset);
    backend_rule(b, "43", reset);
    int32_t kept = *last_known == '0' ? ALTA_AUTH_ORIGIN_DEFAULT : ALTA_AUTH_ORIGIN_LAST_KNOWN;
    CHECK_EQ(check_ok(engine, &request).origin, kept);
    CHECK_EQ(all ? alta_auth_revoke_all(engine) : revoke_42(engine), ALTA_AUTH_OK);
    alta_auth_decision decision = check_ok(engine, &request);
    CHECK_EQ(decision.origin, ALTA_AUTH_ORIGIN_DEFAULT);
    CHECK_EQ(decision.cause, ALTA_AUTH_CAUSE_RESET);
    if (all || kept == ALTA_AUTH_ORIGIN_LAST_KNOWN) { /* "where the engine still knows" whose it was */
        CHECK_EQ(decision.verdict, ALTA_AUTH_DENY);
    }
    decision = check_ok(engine, &other);
    CHECK_EQ(decision.origin, all ? ALTA_AUTH_ORIGIN_DEFAULT : kept);
    CHECK_EQ(decision.verdict, all ? ALTA_AUTH_DENY : ALTA_AUTH_ALLOW);
    CHECK_EQ(check_ok(engine, &fresh).verdict, all ? ALTA_AUTH_DENY : ALTA_AUTH_ALLOW);
    if (all) { /* until the backend has answered any check that was submitted after it */
        alta_auth_request answered = ask("d", "token=123");
        CHECK_EQ(check_ok(engine, &answered).verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(check_ok(engine, &fresh).verdict, ALTA_AUTH_ALLOW);
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoke_user_in_an_outage) {
    in_an_outage(false, "10m");
    in_an_outage(false, "0");
}

CASE(revoke_all_in_an_outage) {
    in_an_outage(true, "10m");
    in_an_outage(true, "0");
}

typedef int32_t revocation(alta_auth_engine *, alta_auth_str);

static void takes_any_id(revocation *revoke) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    static char text[2048];
    memset(text, 'u', sizeof text);
    const alta_auth_str bad[] = {{NULL, 0}, {text, 0}, {NULL, 1}, {text, (size_t)PTRDIFF_MAX + 1}, {text, SIZE_MAX}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(revoke(engine, bad[i]), ALTA_AUTH_ERR_INVALID);
    }
    CHECK_EQ(revoke(NULL, alta_auth_str_of("u")), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(stats_of(engine).revoked, 0);
    /* Of the longer ones nothing is known, and they are as revoked as any. */
    const size_t good[] = {1, 256, 257, 1024, 1025, sizeof text};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK_EQ(revoke(engine, (alta_auth_str){text, good[i]}), ALTA_AUTH_OK);
        CHECK_EQ(stats_of(engine).revoked, i + 1);
    }
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(revoke_takes_any_id_that_is_not_empty) {
    takes_any_id(alta_auth_revoke);
    takes_any_id(alta_auth_revoke_user);
    CHECK_EQ(alta_auth_revoke_all(NULL), ALTA_AUTH_ERR_INVALID);
}

/* Space around a session's id is none of it, however much. */
CASE(revoke_of_an_id_in_much_space) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    backend_rule(b, "42", user_42);
    alta_auth_request request = ask("a", "token=42");
    check_ok(engine, &request);
    CHECK_EQ(look(engine, &request), ALTA_AUTH_OK);
    static char text[2048];
    memset(text, ' ', sizeof text);
    text[0] = 'a';
    CHECK_EQ(alta_auth_revoke(engine, (alta_auth_str){text, sizeof text}), ALTA_AUTH_OK);
    CHECK_EQ(look(engine, &request), ALTA_AUTH_ERR_NOT_FOUND);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
