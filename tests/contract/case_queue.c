/* Completion queues: the descriptor, reaping, batches, capacity. */
#define _GNU_SOURCE
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static const reply remembered = {.status = 200, .headers = "X-AuthDuration: 600\r\nX-UserId: user-42\r\n"};
static const reply held = {.status = 200, .hold = true};

CASE(queue_delivers_with_user_data) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_completion done[2];
    uint64_t tickets[2] = {0, 0};
    int marks[2];
    for (size_t i = 0; i < 2; i++) {
        alta_auth_request request = ask(i == 0 ? "s1" : "s2", i == 0 ? "token=123" : "token=9");
        CHECK_EQ(alta_auth_queue_submit(queue, &request, &marks[i], &tickets[i]), ALTA_AUTH_OK);
    }
    reap_all(queue, done, 2);
    CHECK(tickets[0] != 0 && tickets[1] != 0 && tickets[0] != tickets[1]);
    for (size_t i = 0; i < 2; i++) {
        CHECK(done[i].user_data == &marks[0] || done[i].user_data == &marks[1]);
        size_t which = done[i].user_data == &marks[0] ? 0 : 1;
        CHECK_EQ(done[i].decision.ticket, tickets[which]);
        CHECK_EQ(done[i].decision.verdict, which == 0 ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY);
        CHECK_EQ(done[i].decision.http_status, which == 0 ? 200 : 403);
        CHECK_EQ(done[i].reserved, 0);
    }
    CHECK(done[0].user_data != done[1].user_data);
    CHECK_EQ(alta_auth_queue_reap(queue, done, 2), 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(queue_descriptor) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine), *other = queue_on(engine);
    int fd = alta_auth_queue_fd(queue);
    CHECK(fd >= 0);
    CHECK_EQ(alta_auth_queue_fd(queue), fd);
    CHECK(alta_auth_queue_fd(other) != fd);
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(!readable(fd, 0));
    alta_auth_request request = ask("s", "token=held");
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    CHECK(!readable(fd, 0));
    backend_release(b, "held");
    CHECK(readable(fd, deadline_ms()));
    CHECK(readable(fd, 0)); /* it stays so: nothing has been reaped */
    alta_auth_completion done = ALTA_AUTH_COMPLETION_INIT;
    CHECK_EQ(alta_auth_queue_reap(queue, &done, 1), 1);
    CHECK(!readable(alta_auth_queue_fd(other), 0));
    alta_auth_queue_free(queue);
    CHECK(fcntl(fd, F_GETFD) == -1);
    alta_auth_queue_free(other);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* Nothing is in flight, so after at most one wake-up for nothing the descriptor must be quiet: no busy loop. */
static void check_quiet(alta_auth_queue *queue) {
    alta_auth_completion none = ALTA_AUTH_COMPLETION_INIT;
    CHECK_EQ(alta_auth_queue_reap(queue, &none, 1), 0);
    if (readable(alta_auth_queue_fd(queue), 0)) {
        CHECK_EQ(alta_auth_queue_reap(queue, &none, 1), 0);
    }
    CHECK(!readable(alta_auth_queue_fd(queue), 0));
}

CASE(memory_hit_goes_straight_into_the_queue) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    for (int i = 0; i < 100; i++) {
        alta_auth_completion done = ALTA_AUTH_COMPLETION_INIT;
        CHECK_EQ(alta_auth_queue_submit(queue, &request, &done, NULL), ALTA_AUTH_OK);
        CHECK(readable(alta_auth_queue_fd(queue), 0));
        CHECK_EQ(alta_auth_queue_reap(queue, &done, 1), 1);
        CHECK(done.user_data == &done);
        CHECK_EQ(done.decision.origin, ALTA_AUTH_ORIGIN_MEMORY);
        CHECK_EQ(done.decision.cause, ALTA_AUTH_CAUSE_NONE);
    }
    check_quiet(queue);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(reap_in_pieces) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    enum { TOTAL = 100 };
    static char marks[TOTAL];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event edge = {.events = EPOLLIN | EPOLLET}, event;
    CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, alta_auth_queue_fd(queue), &edge) == 0);
    for (size_t i = 0; i < TOTAL; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, &request, &marks[i], NULL), ALTA_AUTH_OK);
    }
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    size_t got = 0;
    for (size_t piece = 1; got < TOTAL; piece = piece % 7 + 1) {
        alta_auth_completion done[7];
        alta_auth_completion blank = ALTA_AUTH_COMPLETION_INIT;
        done[0] = blank;
        CHECK_EQ(epoll_wait(poller, &event, 1, deadline_ms()), 1); /* an edge, each time something is left */
        CHECK(readable(alta_auth_queue_fd(queue), 0));
        size_t n = alta_auth_queue_reap(queue, done, piece);
        CHECK_EQ(n, piece < TOTAL - got ? piece : TOTAL - got);
        for (size_t i = 0; i < n; i++) {
            char *mark = done[i].user_data;
            CHECK_EQ((*mark)++, 0);
        }
        got += n;
    }
    check_quiet(queue);
    close(poller);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

static void ping_pong(uint32_t trigger) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event interest = {.events = EPOLLIN | trigger}, event;
    CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, alta_auth_queue_fd(queue), &interest) == 0);
    enum { ROUNDS = 300, MOST = 5 };
    char sessions[MOST][16];
    for (size_t round = 0; round < ROUNDS; round++) {
        size_t waiting = round % MOST + 1;
        for (size_t i = 0; i < waiting; i++) {
            snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
            alta_auth_request request = ask(sessions[i], "token=123");
            CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
        }
        while (waiting > 0) {
            CHECK_EQ(epoll_wait(poller, &event, 1, deadline_ms()), 1); /* a lost wake-up ends here */
            for (;;) {
                alta_auth_completion done[2];
                alta_auth_completion blank = ALTA_AUTH_COMPLETION_INIT;
                done[0] = blank;
                size_t n = alta_auth_queue_reap(queue, done, 2);
                if (n == 0) {
                    break;
                }
                CHECK(n <= waiting);
                waiting -= n;
            }
        }
    }
    check_quiet(queue);
    close(poller);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(edge_triggered_epoll_loses_no_wake_up) {
    ping_pong(EPOLLET);
}

CASE(level_triggered_epoll_loses_no_wake_up) {
    ping_pong(0);
}

CASE(completion_struct_size) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    enum { TOTAL = 3 };
    for (size_t i = 0; i < TOTAL; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    }
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    static const uint32_t bad_sizes[] = {0, 16, 96, 104, 111, 113, 114, 116};
    for (size_t i = 0; i < sizeof bad_sizes / sizeof *bad_sizes; i++) {
        alta_auth_completion out[TOTAL];
        memset(out, 0, sizeof out);
        out[0].struct_size = bad_sizes[i]; /* too small, or no multiple of 8: refused, and nothing is lost */
        CHECK_EQ(alta_auth_queue_reap(queue, out, TOTAL), 0);
        CHECK_EQ(out[0].struct_size, bad_sizes[i]);
    }
    struct wide {
        alta_auth_completion known;
        unsigned char tail[24];
    } wide[TOTAL];
    memset(wide, 0xA5, sizeof wide);
    wide[0].known.struct_size = sizeof wide[0]; /* only the first's is read */
    CHECK_EQ(alta_auth_queue_reap(queue, &wide[0].known, TOTAL), TOTAL);
    for (size_t i = 0; i < TOTAL; i++) {
        CHECK_EQ(wide[i].known.struct_size, sizeof wide[0]);
        CHECK_EQ(wide[i].known.decision.struct_size, sizeof wide[0] - offsetof(alta_auth_completion, decision));
        CHECK_EQ(wide[i].known.decision.verdict, ALTA_AUTH_ALLOW);
        CHECK(text_is(wide[i].known.decision.user_id, "user-42"));
        for (size_t k = 0; k < sizeof wide[i].tail; k++) {
            CHECK_EQ(wide[i].tail[k], 0);
        }
    }
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(text_of_a_completion_lives_until_the_queues_next_reap) {
    backend *b = backend_start();
    backend_rule(b, "123", remembered);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine), *other = queue_on(engine);
    alta_auth_request request = ask("s", "token=123");
    enum { TOTAL = 4 };
    alta_auth_completion done[TOTAL], elsewhere[TOTAL];
    for (size_t i = 0; i < TOTAL; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    }
    size_t got = 0;
    while (got < TOTAL) { /* all at once, so that no later reap ends the text of an earlier one */
        CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
        done[0].struct_size = sizeof done[0];
        got = alta_auth_queue_reap(queue, done, TOTAL);
        CHECK_EQ(got, TOTAL);
    }
    for (size_t i = 0; i < TOTAL; i++) {
        CHECK_EQ(alta_auth_queue_submit(other, &request, NULL, NULL), ALTA_AUTH_OK);
    }
    reap_all(other, elsewhere, TOTAL);
    CHECK_EQ(alta_auth_revoke(engine, request.session_id), ALTA_AUTH_OK);
    for (size_t i = 0; i < TOTAL; i++) {
        CHECK(text_is(done[i].decision.user_id, "user-42"));
    }
    alta_auth_queue_free(queue);
    alta_auth_queue_free(other);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- capacity ---- */

CASE(full_at_capacity_to_the_exact_number) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), "inbox.capacity", "8", NULL);
    alta_auth_queue *queue = queue_on(engine);
    char sessions[9][8];
    alta_auth_request request[9];
    uint64_t tickets[9] = {0};
    for (size_t i = 0; i < 9; i++) {
        snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
        request[i] = ask(sessions[i], "token=held");
    }
    for (size_t i = 0; i < 8; i++) {
        CHECK_EQ(alta_auth_queue_submit(queue, &request[i], NULL, &tickets[i]), ALTA_AUTH_OK);
    }
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    sink to;
    sink_init(&to);
    seen refused;
    seen_init(&refused, &to);
    CHECK_EQ(alta_auth_queue_submit(queue, &request[8], NULL, &tickets[8]), ALTA_AUTH_ERR_FULL);
    CHECK_EQ(alta_auth_submit(engine, &request[8], on_decision, &refused, &tickets[8]), ALTA_AUTH_ERR_FULL);
    CHECK_EQ(alta_auth_check(engine, &request[8], &decision), ALTA_AUTH_ERR_FULL);
    CHECK_EQ(tickets[8], 0);
    CHECK_EQ(stats_of(engine).refused, 3);
    CHECK_EQ(stats_of(engine).pending, 8);
    backend_release(b, "held");
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    CHECK_EQ(stats_of(engine).pending, 8); /* unreaped is pending */
    CHECK_EQ(alta_auth_queue_submit(queue, &request[8], NULL, &tickets[8]), ALTA_AUTH_ERR_FULL);
    alta_auth_completion done[8];
    reap_all(queue, done, 1);
    CHECK_EQ(alta_auth_queue_submit(queue, &request[8], NULL, &tickets[8]), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(queue, &request[0], NULL, &tickets[0]), ALTA_AUTH_ERR_FULL);
    uint64_t last = done[0].decision.ticket == tickets[7] ? tickets[6] : tickets[7];
    CHECK_EQ(alta_auth_cancel(engine, last), ALTA_AUTH_OK); /* a cancelled check gives its place back */
    CHECK_EQ(alta_auth_queue_submit(queue, &request[0], NULL, &tickets[0]), ALTA_AUTH_OK);
    reap_all(queue, done, 8);
    alta_auth_stats stats = stats_of(engine);
    CHECK_EQ(stats.submitted, 10);
    CHECK_EQ(stats.completed, 9);
    CHECK_EQ(stats.cancelled, 1);
    CHECK_EQ(stats.refused, 5);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    CHECK_EQ(sink_count(&to), 0);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(capacity_is_engine_wide) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), "inbox.capacity", "3", NULL);
    alta_auth_queue *one = queue_on(engine), *two = queue_on(engine);
    sink to;
    sink_init(&to);
    seen first;
    seen_init(&first, &to);
    alta_auth_request a = ask("a", "token=held"), c = ask("c", "token=held"), d = ask("d", "token=held");
    CHECK_EQ(alta_auth_submit(engine, &a, on_decision, &first, &first.ticket), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(one, &a, NULL, NULL), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(one, &c, NULL, NULL), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(two, &d, NULL, NULL), ALTA_AUTH_ERR_FULL);
    backend_release(b, "held");
    alta_auth_completion done[2];
    reap_all(one, done, 2);
    sink_wait(&to, 1);
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(two, &d, NULL, NULL), ALTA_AUTH_OK);
    reap_all(two, done, 1);
    alta_auth_queue_free(one);
    alta_auth_queue_free(two);
    alta_auth_engine_free(engine);
    sink_destroy(&to);
    backend_stop(b);
}

CASE(overload_default_answers_as_many_again) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    for (int on = 0; on <= 1; on++) {
        alta_auth_engine *engine =
            engine_with(backend_url(b), "inbox.capacity", "4", "overload", "default", "default_action", "allow",
                        "fail_open.overload", on ? "on" : "off", NULL);
        alta_auth_queue *queue = queue_on(engine);
        alta_auth_completion done[4];
        char sessions[9][8];
        for (size_t i = 0; i < 9; i++) {
            snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
            alta_auth_request request = ask(sessions[i], "token=held");
            CHECK_EQ(alta_auth_queue_submit(queue, &request, sessions[i], NULL),
                     i < 8 ? ALTA_AUTH_OK : ALTA_AUTH_ERR_FULL);
        }
        CHECK_EQ(stats_of(engine).submitted, 8);
        reap_all(queue, done, 4);
        for (size_t i = 0; i < 4; i++) {
            CHECK(((char *)done[i].user_data)[1] >= '4');
            CHECK_EQ(done[i].decision.cause, ALTA_AUTH_CAUSE_OVERLOAD);
            CHECK_EQ(done[i].decision.origin, ALTA_AUTH_ORIGIN_DEFAULT);
            CHECK_EQ(done[i].decision.verdict, on ? ALTA_AUTH_ALLOW : ALTA_AUTH_DENY);
        }
        CHECK_EQ(stats_of(engine).causes[ALTA_AUTH_CAUSE_OVERLOAD], 4);
        alta_auth_queue_free(queue);
        alta_auth_engine_free(engine);
    }
    backend_stop(b);
}

/* Without room what is remembered is still known, and needs no more than a place to wait in. */
CASE(overload_default_keeps_what_is_remembered) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    backend_rule(b, "123", remembered);
    for (int spare = 0; spare <= 1; spare++) {
        alta_auth_engine *engine =
            engine_with(backend_url(b), "inbox.capacity", "2", "overload", spare ? "default" : "refuse", NULL);
        alta_auth_queue *queue = queue_on(engine);
        alta_auth_request known = ask("known", "token=123"), one = ask("one", "token=held"), two = ask("two", "token=held");
        check_ok(engine, &known);
        size_t asked = backend_requests(b, "123");
        CHECK_EQ(alta_auth_queue_submit(queue, &one, NULL, NULL), ALTA_AUTH_OK);
        CHECK_EQ(alta_auth_queue_submit(queue, &two, NULL, NULL), ALTA_AUTH_OK);
        CHECK_EQ(alta_auth_queue_submit(queue, &known, NULL, NULL), spare ? ALTA_AUTH_OK : ALTA_AUTH_ERR_FULL);
        CHECK_EQ(stats_of(engine).refused, spare ? 0 : 1);
        if (spare) {
            alta_auth_completion done[3];
            reap_all(queue, done, 1);
            CHECK_EQ(done[0].decision.origin, ALTA_AUTH_ORIGIN_MEMORY);
            CHECK_EQ(done[0].decision.verdict, ALTA_AUTH_ALLOW);
            for (size_t i = 0; i < 3; i++) { /* as many as the others, and no more */
                CHECK_EQ(alta_auth_queue_submit(queue, &known, NULL, NULL), i < 2 ? ALTA_AUTH_OK : ALTA_AUTH_ERR_FULL);
            }
        }
        CHECK_EQ(backend_requests(b, "123"), asked);
        alta_auth_queue_free(queue);
        alta_auth_engine_free(engine);
    }
    backend_stop(b);
}

/* ---- a queue's end ---- */

CASE(queue_free_cancels_its_pending_and_unreaped_checks) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine), *other = queue_on(engine);
    alta_auth_request pending = ask("p", "token=held"), unreaped = ask("u", "token=123");
    uint64_t tickets[2];
    CHECK_EQ(alta_auth_queue_submit(queue, &unreaped, NULL, &tickets[0]), ALTA_AUTH_OK);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    CHECK_EQ(alta_auth_queue_submit(queue, &pending, NULL, &tickets[1]), ALTA_AUTH_OK);
    CHECK_EQ(alta_auth_queue_submit(other, &pending, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    alta_auth_queue_free(queue);
    alta_auth_stats stats = stats_of(engine);
    CHECK_EQ(stats.cancelled, 2);
    CHECK_EQ(stats.pending, 1);
    CHECK_EQ(alta_auth_cancel(engine, tickets[0]), ALTA_AUTH_ERR_NOT_FOUND);
    CHECK_EQ(alta_auth_cancel(engine, tickets[1]), ALTA_AUTH_ERR_NOT_FOUND);
    backend_release(b, "held");
    alta_auth_completion done;
    reap_all(other, &done, 1); /* one that shares the exchange is not spoilt */
    CHECK_EQ(done.decision.verdict, ALTA_AUTH_ALLOW);
    alta_auth_queue_free(other);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(orphaned_queue_reaps_nothing) {
    backend *b = backend_start();
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine), *empty = queue_on(engine);
    alta_auth_request pending = ask("p", "token=held"), unreaped = ask("u", "token=123");
    CHECK_EQ(alta_auth_queue_submit(queue, &unreaped, NULL, NULL), ALTA_AUTH_OK);
    CHECK(readable(alta_auth_queue_fd(queue), deadline_ms()));
    CHECK_EQ(alta_auth_queue_submit(queue, &pending, NULL, NULL), ALTA_AUTH_OK);
    alta_auth_engine_free(engine);
    alta_auth_completion done = ALTA_AUTH_COMPLETION_INIT;
    int32_t status = 77;
    CHECK_EQ(alta_auth_queue_reap(queue, &done, 1), 0);
    CHECK_EQ(alta_auth_queue_reap(empty, &done, 1), 0);
    CHECK(!readable(alta_auth_queue_fd(queue), 0)); /* or a loop that polls it would spin */
    CHECK_EQ(alta_auth_queue_submit(queue, &pending, NULL, NULL), ALTA_AUTH_ERR_CLOSED);
    CHECK_EQ(alta_auth_queue_submit_batch(queue, &pending, 1, NULL, &status), 0);
    CHECK_EQ(status, ALTA_AUTH_ERR_CLOSED);
    alta_auth_queue_free(queue);
    alta_auth_queue_free(empty);
    backend_stop(b);
}
