/* What is accepted as a watch, how many, and what a watch is not: a check. */
#define _GNU_SOURCE
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-42\r\n"};
static const reply allowed = {.status = 200}, held = {.status = 200, .hold = true};

/* ---- bounds ---- */

CASE(watch_max_rate_bounds_all_watches_together) {
    enum { WATCHES = 20, AGAIN = 30 };
    backend *b = backend_start();
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine =
        engine_with(backend_url(b), "watch.interval", "1ms", "watch.max_rate", "10", NULL);
    static viewer views[WATCHES];
    char sessions[WATCHES][8];
    uint64_t before = now_ns();
    for (size_t i = 0; i < WATCHES; i++) {
        viewer_init(&views[i]);
        snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
        alta_auth_request request = ask(sessions[i], "token=123");
        open_watch(engine, &request, &views[i]);
    }
    for (size_t i = 0; i < WATCHES; i++) { /* first decisions do not count */
        told(&views[i], 1);
    }
    CHECK(backend_wait_requests(b, "123", WATCHES + AGAIN));
    CHECK(now_ns() - before >= 1900000000U); /* a second's worth may have gone at once, not more */
    alta_auth_engine_free(engine);
    backend_stop(b);
}

typedef struct opening {
    alta_auth_engine *engine;
    const alta_auth_request *request;
    viewer *v;
} opening;

static bool opens(void *context) {
    opening *o = context;
    int32_t status = alta_auth_watch(o->engine, o->request, on_told, o->v, &o->v->ticket);
    CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_FULL);
    return status == ALTA_AUTH_OK;
}

CASE(watch_max_is_full_and_gives_places_back) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), "watch.max", "2", NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer one, two, three, four;
    viewer_init(&one);
    viewer_init(&two);
    viewer_init(&three);
    viewer_init(&four);
    alta_auth_request a = ask("a", "token=123"), c = ask("c", "token=123");
    uint64_t untouched = 77;
    open_watch(engine, &a, &one);
    open_queue_watch(queue, &c, &two);
    CHECK_EQ(alta_auth_watch(engine, &c, on_told, &three, &untouched), ALTA_AUTH_ERR_FULL);
    CHECK_EQ(alta_auth_queue_watch(queue, &c, &three, &untouched), ALTA_AUTH_ERR_FULL);
    CHECK_EQ(untouched, 77);
    told(&one, 1);
    CHECK_EQ(check_ok(engine, &a).verdict, ALTA_AUTH_ALLOW); /* of checks there is still room */
    cancel_ok(engine, &one);
    open_watch(engine, &c, &three);
    CHECK_EQ(alta_auth_watch(engine, &a, on_told, &one, &untouched), ALTA_AUTH_ERR_FULL);
    CHECK_EQ(alta_auth_revoke(engine, c.session_id), ALTA_AUTH_OK); /* both end by themselves */
    told_last(&three);
    while (!two.over) {
        told_by(queue, &two, told_count(&two) + 1);
    }
    opening o = {engine, &a, &four};
    CHECK(eventually(opens, &o));
    told(&four, 1);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    engine = engine_with(backend_url(b), "watch.max", "0", NULL);
    CHECK_EQ(alta_auth_watch(engine, &a, on_told, &one, &untouched), ALTA_AUTH_ERR_FULL);
    alta_auth_engine_free(engine);
    CHECK_EQ(untouched, 77);
    backend_stop(b);
}

/* ---- arguments ---- */

/* Of both ways to open, which must agree; none writes a ticket or delivers anything. */
static int32_t refusal_of(alta_auth_engine *engine, alta_auth_queue *queue, const alta_auth_request *request) {
    static viewer nobody; /* on_told would fail: its lock was never made, its ticket is 0 */
    uint64_t ticket = 77;
    int32_t called = alta_auth_watch(engine, request, on_told, &nobody, &ticket);
    CHECK_EQ(alta_auth_queue_watch(queue, request, &nobody, &ticket), called);
    CHECK_EQ(ticket, 77);
    return called;
}

CASE(watch_arguments_are_checked) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request good = ask("s", "token=123"), request;
    viewer v;
    viewer_init(&v);
    uint64_t ticket = 77;
    CHECK_EQ(alta_auth_watch(NULL, &good, on_told, &v, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_watch(engine, NULL, on_told, &v, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_watch(engine, &good, NULL, &v, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_queue_watch(NULL, &good, &v, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(alta_auth_queue_watch(queue, NULL, &v, &ticket), ALTA_AUTH_ERR_INVALID);
    CHECK_EQ(ticket, 77);

    static const uint32_t sizes[] = {0, 1, 4, 64, 124, 127};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        request = good;
        request.struct_size = sizes[i];
        CHECK_EQ(refusal_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    }
    struct {
        alta_auth_request known;
        unsigned char tail[16];
    } wide = {.known = good};
    wide.known.struct_size = sizeof wide;
    wide.tail[15] = 1;
    CHECK_EQ(refusal_of(engine, queue, &wide.known), ALTA_AUTH_ERR_UNSUPPORTED);
    for (unsigned bit = 1; bit < 32; bit++) {
        request = good;
        request.flags = 1U << bit;
        CHECK_EQ(refusal_of(engine, queue, &request), ALTA_AUTH_ERR_UNSUPPORTED);
    }
    request = good;
    request.reserved = 1;
    CHECK_EQ(refusal_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    request = good;
    request.session_id = alta_auth_str_of("");
    CHECK_EQ(refusal_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    request = good;
    request.path = alta_auth_str_of("/live/../index.m3u8");
    CHECK_EQ(refusal_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
    _Alignas(alta_auth_request) char misaligned[sizeof request + 1];
    memcpy(misaligned + 1, &good, sizeof good);
    const void *at = misaligned + 1;
    CHECK_EQ(refusal_of(engine, queue, at), ALTA_AUTH_ERR_INVALID);

    static char text[20000];
    memset(text, 'a', sizeof text);
    text[0] = '/';
    alta_auth_str *const fields[] = {&request.session_id, &request.ip,     &request.origin, &request.scope,
                                     &request.path,       &request.query, &request.user_agent};
    static const size_t limits[] = {1024, 1024, 1024, 1024, 4096, 16384, 0};
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) {
        static const char bytes[] = {'\r', '\n', '\0'};
        for (size_t i = 0; i < sizeof bytes; i++) {
            char spoilt[] = "/a";
            spoilt[1] = bytes[i];
            request = good;
            *fields[f] = (alta_auth_str){spoilt, 2};
            CHECK_EQ(refusal_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
        }
        const size_t over[] = {limits[f] + 1, sizeof text, SIZE_MAX};
        for (size_t i = 0; limits[f] && i < sizeof over / sizeof *over; i++) {
            request = good;
            *fields[f] = (alta_auth_str){text, over[i]};
            CHECK_EQ(refusal_of(engine, queue, &request), ALTA_AUTH_ERR_INVALID);
        }
    }
    CHECK_EQ(backend_requests(b, NULL), 0);
    wide.tail[15] = 0; /* and with zeroes there it is accepted; so is no place for the ticket */
    open_watch(engine, &wide.known, &v);
    told(&v, 1);
    CHECK_EQ(alta_auth_queue_watch(queue, &good, NULL, NULL), ALTA_AUTH_OK);
    alta_auth_completion done;
    reap_all(queue, &done, 1);
    CHECK(done.user_data == NULL && done.decision.ticket != 0 && done.decision.ticket != v.ticket);
    CHECK_EQ(alta_auth_cancel(engine, done.decision.ticket), ALTA_AUTH_OK);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&v), 2);
    backend_stop(b);
}

CASE(watch_text_is_copied) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), "watch.interval", "20ms", NULL);
    viewer v;
    viewer_init(&v);
    char *session = strdup("copied"), *query = strdup("token=123");
    CHECK(session && query);
    alta_auth_request request = ask(session, query);
    open_watch(engine, &request, &v);
    memset(session, 'x', strlen(session));
    memset(query, 'x', strlen(query));
    memset(&request, 0xFF, sizeof request);
    free(session);
    free(query);
    CHECK(backend_wait_requests(b, "123", 3)); /* long after the call */
    char head[4096];
    backend_last_request(b, "123", head, sizeof head);
    CHECK(strstr(head, "\r\nX-Session-Id: copied\r\n") != NULL);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(watch_tickets) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL), *other = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    enum { EACH = 20 };
    static viewer views[EACH];
    uint64_t tickets[3 * EACH];
    size_t n = 0;
    alta_auth_request request = ask("s", "token=123");
    for (size_t i = 0; i < EACH; i++) { /* on_told sees that each was written before its first callback */
        viewer_init(&views[i]);
        open_watch(engine, &request, &views[i]);
        tickets[n++] = views[i].ticket;
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &tickets[n++]), ALTA_AUTH_OK);
        CHECK_EQ(alta_auth_queue_watch(queue, &request, NULL, &tickets[n++]), ALTA_AUTH_OK);
    }
    for (size_t i = 0; i < n; i++) {
        CHECK(tickets[i] != 0);
        for (size_t k = 0; k < i; k++) {
            CHECK(tickets[i] != tickets[k]);
        }
    }
    for (size_t i = 0; i < EACH; i++) {
        CHECK_EQ(alta_auth_cancel(other, views[i].ticket), ALTA_AUTH_ERR_NOT_FOUND);
        told(&views[i], 1);
        cancel_ok(engine, &views[i]);
        CHECK_EQ(alta_auth_cancel(engine, views[i].ticket), ALTA_AUTH_ERR_NOT_FOUND);
    }
    alta_auth_queue_free(queue);
    alta_auth_engine_free(other);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- no check ---- */

CASE(a_watch_is_not_pending) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), "inbox.capacity", "1", NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer decided, open, unreaped;
    viewer_init(&decided);
    viewer_init(&open);
    viewer_init(&unreaped);
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=held"), three = ask("c", "token=123");
    open_watch(engine, &one, &decided);
    told(&decided, 1);
    open_watch(engine, &two, &open);
    CHECK(backend_wait_requests(b, "held", 1));
    open_queue_watch(queue, &three, &unreaped);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    CHECK_EQ(alta_auth_engine_drain(engine, 0), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_engine_drain(engine, UINT32_MAX), ALTA_AUTH_OK);
    CHECK_EQ(stats_of(engine).pending, 0);
    CHECK_EQ(check_ok(engine, &one).verdict, ALTA_AUTH_ALLOW); /* and takes none of the checks' room */
    CHECK_EQ(told_count(&open), 0);
    backend_release(b, "held");
    told(&open, 1);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

static void same_counters(const alta_auth_stats *a, const alta_auth_stats *b) {
    CHECK_EQ(a->submitted, b->submitted);
    CHECK_EQ(a->completed, b->completed);
    CHECK_EQ(a->cancelled, b->cancelled);
    CHECK_EQ(a->pending, b->pending);
    CHECK_EQ(a->allowed, b->allowed);
    CHECK_EQ(a->denied, b->denied);
    CHECK_EQ(a->from_backend, b->from_backend);
    CHECK_EQ(a->from_memory, b->from_memory);
    CHECK_EQ(a->from_last_known, b->from_last_known);
    CHECK_EQ(a->from_default, b->from_default);
    CHECK_EQ(a->coalesced, b->coalesced);
    for (size_t i = 0; i < 16; i++) {
        CHECK_EQ(a->causes[i], b->causes[i]);
    }
}

CASE(a_watch_moves_no_counter_of_checks) {
    backend *b = backend_start();
    reply reset = {.kind = REPLY_RESET};
    backend_rule(b, "flaps", allowed);
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), "watch.interval", "20ms", NULL);
    alta_auth_queue *queue = queue_on(engine);
    static viewer views[4];
    alta_auth_request request = ask("s", "token=123"), flaps = ask("f", "token=flaps"), shared = ask("h", "token=held");
    check_ok(engine, &request);
    alta_auth_stats before = stats_of(engine), after;
    for (size_t i = 0; i < 4; i++) {
        viewer_init(&views[i]);
    }
    open_watch(engine, &flaps, &views[0]);
    open_queue_watch(queue, &flaps, &views[1]);
    told(&views[0], 1);
    told_by(queue, &views[1], 1);
    backend_rule(b, "flaps", reset);
    told(&views[0], 2); /* a default action */
    told_by(queue, &views[1], 2);
    end_watch(engine, &views[0]);
    CHECK_EQ(alta_auth_revoke(engine, flaps.session_id), ALTA_AUTH_OK);
    while (!views[1].over) {
        told_by(queue, &views[1], told_count(&views[1]) + 1);
    }
    open_watch(engine, &shared, &views[2]);
    open_watch(engine, &shared, &views[3]);
    CHECK(backend_wait_requests(b, "held", 1));
    backend_release(b, "held");
    told(&views[2], 1);
    told(&views[3], 1);
    after = stats_of(engine);
    same_counters(&before, &after);
    CHECK(after.exchanges > before.exchanges);
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
    told_last(&views[2]);
    after = stats_of(engine);
    same_counters(&before, &after);
    check_sums(&after);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- fork ---- */

typedef struct family {
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    viewer *open;
} family;

static void never(void *user_data, const alta_auth_decision *decision) {
    (void)user_data;
    (void)decision;
    fail(__FILE__, __LINE__, "a callback ran in the child");
}

static void calls_in_child(void *context) {
    family *f = context;
    alta_auth_request request = ask("child", "token=123");
    uint64_t ticket = 77;
    CHECK_EQ(alta_auth_watch(f->engine, &request, never, NULL, &ticket), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_queue_watch(f->queue, &request, NULL, &ticket), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_cancel(f->engine, f->open->ticket), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_revoke_user(f->engine, alta_auth_str_of("user-42")), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_revoke_all(f->engine), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(ticket, 77);
    size_t before = f->open->count;
    alta_auth_queue_free(f->queue);
    alta_auth_engine_free(f->engine);
    CHECK_EQ(f->open->count, before); /* the last decision is the parent's to tell */
}

CASE(fork_watches_stay_the_parents) {
    backend *b = backend_start();
    reply refused = {.status = 403};
    backend_rule(b, "123", allowed);
    alta_auth_engine *engine = engine_with(backend_url(b), "watch.interval", "20ms", NULL);
    alta_auth_queue *queue = queue_on(engine);
    viewer called, reaped;
    viewer_init(&called);
    viewer_init(&reaped);
    alta_auth_request one = ask("a", "token=123"), two = ask("b", "token=123");
    open_watch(engine, &one, &called);
    open_queue_watch(queue, &two, &reaped);
    told(&called, 1);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    family f = {engine, queue, &called};
    in_child(calls_in_child, &f);
    told_by(queue, &reaped, 1);
    backend_rule(b, "123", refused);
    CHECK_EQ(told(&called, 2).verdict, ALTA_AUTH_DENY);
    CHECK_EQ(told_by(queue, &reaped, 2).verdict, ALTA_AUTH_DENY);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(told_count(&called), 3);
    backend_stop(b);
}
