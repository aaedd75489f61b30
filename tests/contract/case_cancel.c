/* Cancel: an atomic step that never waits; OK means that user_data is never used again. */
#define _GNU_SOURCE
#include "support.h"

#include <stdlib.h>
#include <string.h>

static const reply held = {.status = 200, .hold = true};

CASE(cancel_before_delivery) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    sink to;
    sink_init(&to);
    seen *gone = malloc(sizeof *gone);
    CHECK(gone != NULL);
    seen_init(gone, &to);
    alta_auth_request request = ask("s", "token=held");
    CHECK_EQ(alta_auth_submit(engine, &request, on_decision, gone, &gone->ticket), ALTA_AUTH_OK);
    uint64_t in_callback_mode = gone->ticket, in_queue_mode = 0;
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &in_queue_mode), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK_EQ(alta_auth_cancel(engine, in_callback_mode), ALTA_AUTH_OK);
    free(gone); /* its user_data is never used again */
    CHECK_EQ(alta_auth_cancel(engine, in_queue_mode), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_cancel(engine, in_callback_mode), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, in_queue_mode), ALTA_AUTH_ERR_NOT_FOUND);
    alta_auth_stats stats = stats_of(engine);
    CHECK_EQ(stats.cancelled, 2);
    CHECK_EQ(stats.pending, 0);
    CHECK_EQ(alta_auth_engine_drain(engine, 0), ALTA_AUTH_OK); /* nothing is pending */
    backend_release(b, "held");
    alta_auth_request next = ask("s2", "token=123");
    check_ok(engine, &next);
    alta_auth_completion done = ALTA_AUTH_COMPLETION_INIT;
    CHECK_EQ(alta_auth_queue_reap(queue, &done, 1), 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(sink_count(&to), 0);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(cancel_of_an_unreaped_completion) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    uint64_t tickets[3];
    static const char *const sessions[] = {"a", "b", "c"};
    for (size_t i = 0; i < 3; i++) {
        alta_auth_request request = ask(sessions[i], "token=123");
        CHECK_EQ(alta_auth_queue_submit(queue, &request, &tickets[i], &tickets[i]), ALTA_AUTH_OK);
    }
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_cancel(engine, tickets[1]), ALTA_AUTH_OK);
    alta_auth_completion done[3];
    done[0].struct_size = sizeof done[0];
    CHECK_EQ(alta_auth_queue_reap(queue, done, 3), 2);
    for (size_t i = 0; i < 2; i++) {
        CHECK(done[i].user_data == &tickets[0] || done[i].user_data == &tickets[2]);
    }
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(alta_auth_cancel(engine, tickets[i]), ALTA_AUTH_ERR_NOT_FOUND);
    }
    alta_auth_stats stats = stats_of(engine);
    CHECK_EQ(stats.completed, 2);
    CHECK_EQ(stats.cancelled, 1);
    check_sums(&stats);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(cancel_after_delivery_and_of_unknown_tickets) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    sink to;
    sink_init(&to);
    seen done;
    seen_init(&done, &to);
    alta_auth_request request = ask("s", "token=123");
    CHECK_EQ(alta_auth_cancel(engine, 0), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, 1), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, UINT64_MAX), ALTA_AUTH_ERR_NOT_FOUND);
    submit_and_wait(engine, &request, &done);
    CHECK_EQ(alta_auth_cancel(engine, done.ticket), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, done.ticket + 1), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(stats_of(engine).cancelled, 0);
    alta_auth_engine_free(engine);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(cancel_with_another_engines_ticket) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *one = engine_with(backend_url(b), NULL), *two = engine_with(backend_url(b), NULL);
    alta_auth_queue *q1 = queue_on(one), *q2 = queue_on(two);
    alta_auth_request request = ask("s", "token=held");
    uint64_t t1 = 0, t2 = 0;
    CHECK_EQ(alta_auth_queue_submit(q1, &request, NULL, &t1), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(q2, &request, NULL, &t2), ALTA_AUTH_OK);
    CHECK(t1 != t2); /* tickets are never reused, by whichever engine */
    CHECK_EQ(alta_auth_cancel(one, t2), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(two, t1), ALTA_AUTH_ERR_NOT_FOUND);
    backend_release(b, "held");
    alta_auth_completion done;
    reap_all(q1, &done, 1);
    CHECK_EQ(done.decision.ticket, t1);
    reap_all(q2, &done, 1);
    CHECK_EQ(done.decision.ticket, t2);
    alta_auth_queue_free(q1);
    alta_auth_queue_free(q2);
    alta_auth_engine_free(one);
    alta_auth_engine_free(two);
    backend_stop(b);
}

CASE(cancel_spoils_no_other_waiter) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held");
    uint64_t tickets[3];
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &tickets[i]), ALTA_AUTH_OK);
    }
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK_EQ(alta_auth_cancel(engine, tickets[0]), ALTA_AUTH_OK); /* the leader */
    backend_release(b, "held");
    alta_auth_completion done[2];
    reap_all(queue, done, 2);
    for (size_t i = 0; i < 2; i++) {
        CHECK(done[i].decision.ticket == tickets[1] || done[i].decision.ticket == tickets[2]);
        CHECK_EQ(done[i].decision.verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(done[i].decision.origin, ALTA_AUTH_ORIGIN_BACKEND);
    }
    CHECK_EQ(backend_requests(b, "held"), 1);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

typedef struct looking {
    alta_auth_engine *engine;
    const alta_auth_request *request;
} looking;

static bool is_remembered(void *context) {
    const looking *l = context;
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    return alta_auth_lookup(l->engine, l->request, &decision) == ALTA_AUTH_OK;
}

CASE(written_exchange_without_waiters_is_remembered) {
    backend *b = backend_start();
    reply late = {.status = 200, .headers = "X-AuthDuration: 600\r\n", .hold = true};
    backend_rule(b, "held", late);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=held");
    uint64_t ticket = 0;
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, &ticket), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK_EQ(alta_auth_cancel(engine, ticket), ALTA_AUTH_OK);
    backend_release(b, "held");
    looking l = {engine, &request};
    CHECK(eventually(is_remembered, &l));
    CHECK_EQ(backend_requests(b, "held"), 1);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* Cancels race with deliveries; each check ends in exactly one way, and the two sides agree on which. */
typedef struct raced {
    uint64_t ticket;
    pthread_mutex_t *lock;
    bool delivered;
    bool cancelled;
} raced;

static void on_raced(void *user_data, const alta_auth_decision *decision) {
    raced *r = user_data;
    CHECK_EQ(decision->ticket, r->ticket);
    pthread_mutex_lock(r->lock);
    CHECK(!r->delivered && !r->cancelled);
    r->delivered = true;
    pthread_mutex_unlock(r->lock);
}

CASE(cancel_against_delivery) {
    backend *b = backend_start();
    reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\n"};
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    size_t count = parameter("CONTRACT_CHECKS", 100000) / 20;
    raced *all = calloc(count, sizeof *all);
    CHECK(all != NULL);
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    size_t cancelled = 0, delivered = 0;
    for (size_t i = 0; i < count; i++) {
        all[i].lock = &lock;
        CHECK_EQ(alta_auth_submit(engine, &request, on_raced, &all[i], &all[i].ticket), ALTA_AUTH_OK);
        if (i % 3 == 0) {
            continue;
        }
        raced *victim = &all[i % 3 == 1 ? i : i - 1];
        int32_t status = alta_auth_cancel(engine, victim->ticket);
        CHECK(status == ALTA_AUTH_OK || status == ALTA_AUTH_ERR_NOT_FOUND);
        if (status == ALTA_AUTH_OK) {
            pthread_mutex_lock(&lock);
            CHECK(!victim->delivered && !victim->cancelled);
            victim->cancelled = true;
            pthread_mutex_unlock(&lock);
            cancelled++;
        }
    }
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count; i++) {
        CHECK(all[i].delivered != all[i].cancelled);
        delivered += all[i].delivered;
    }
    pthread_mutex_unlock(&lock);
    alta_auth_stats stats = stats_of(engine);
    CHECK_EQ(stats.cancelled, cancelled);
    CHECK_EQ(stats.completed, delivered + 1);
    check_sums(&stats);
    alta_auth_engine_free(engine);
    pthread_mutex_destroy(&lock);
    free(all);
    backend_stop(b);
}
