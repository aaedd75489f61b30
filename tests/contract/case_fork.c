/* A host that forks: the child is turned away, and the parent loses nothing. */
#define _GNU_SOURCE
#include "support.h"

#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

static const reply held = {.status = 200, .hold = true};

enum { IN_FLIGHT = 20 };

typedef struct family {
    backend *b;
    alta_auth_engine *engine;
    alta_auth_queue *queue;
    int queue_fd;
    const char *url;
} family;

static void never(void *user_data, const alta_auth_decision *decision) {
    (void)user_data;
    (void)decision;
    fail(__FILE__, __LINE__, "a callback ran in the child");
}

static void calls_in_child(void *context) {
    family *f = context;
    alta_auth_request request = ask("child", "token=123");
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
    alta_auth_completion done[4];
    alta_auth_queue *queue = NULL;
    uint64_t ticket = 77;
    int32_t statuses[1] = {77};
    char text[256] = "";
    CHECK_EQ(alta_auth_submit(f->engine, &request, never, NULL, &ticket), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_submit_batch(f->engine, &request, 1, never, NULL, statuses), 0);
    CHECK_EQ(statuses[0], ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_check(f->engine, &request, &decision), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_lookup(f->engine, &request, &decision), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_cancel(f->engine, 1), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_revoke(f->engine, request.session_id), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_queue_new(f->engine, &queue), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_queue_submit(f->queue, &request, NULL, &ticket), ALTA_AUTH_ERR_FORKED);
    statuses[0] = 77;
    CHECK_EQ(alta_auth_queue_submit_batch(f->queue, &request, 1, NULL, statuses), 0);
    CHECK_EQ(statuses[0], ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_stats_read(f->engine, &stats), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_engine_drain(f->engine, UINT32_MAX), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_engine_shutdown(f->engine, UINT32_MAX), ALTA_AUTH_ERR_FORKED);
    alta_auth_config *config = config_with(f->url, NULL);
    memset(text, 'x', sizeof text);
    CHECK_EQ(alta_auth_engine_reload(f->engine, config, text, sizeof text), ALTA_AUTH_ERR_FORKED);
    CHECK(memchr(text, 0, sizeof text) && strstr(text, "parent process"));
    alta_auth_config_free(config);
    CHECK_EQ(ticket, 77);
    memset(done, 0, sizeof done);
    done[0].struct_size = sizeof done[0];
    CHECK_EQ(alta_auth_queue_reap(f->queue, done, 4), 0);
    CHECK_EQ(alta_auth_queue_fd(f->queue), -1);
    alta_auth_queue_free(f->queue);
    alta_auth_engine_free(f->engine);
}

static void free_in_other_order(void *context) {
    family *f = context;
    alta_auth_engine_free(f->engine);
    alta_auth_queue_free(f->queue);
}

static void new_engine_in_child(void *context) {
    family *f = context;
    alta_auth_engine *engine = engine_with(f->url, NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("child", "token=123");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_completion done;
    CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
    reap_all(queue, &done, 1);
    CHECK_EQ(done.decision.verdict, ALTA_AUTH_ALLOW);
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    CHECK_EQ(alta_auth_lookup(f->engine, &request, &decision), ALTA_AUTH_ERR_FORKED); /* the parent's stays so */
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
}

/* Checks in flight and unreaped at each fork; whatever the child does, the parent receives all of them. */
static void fork_with(void (*child)(void *)) {
    family f = {.b = backend_start()};
    backend_rule(f.b, "held", held);
    f.url = backend_url(f.b);
    f.engine = engine_with(f.url, NULL);
    f.queue = queue_on(f.engine);
    f.queue_fd = alta_auth_queue_fd(f.queue);
    sink to;
    sink_init(&to);
    static seen places[IN_FLIGHT];
    char sessions[IN_FLIGHT][8];
    alta_auth_request unreaped = ask("u", "token=123");
    CHECK_EQ(alta_auth_queue_submit(f.queue, &unreaped, NULL, NULL), ALTA_AUTH_OK);
    CHECK(readable(f.queue_fd, deadline_ms()));
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        snprintf(sessions[i], sizeof sessions[i], "s%zu", i);
        seen_init(&places[i], &to);
        alta_auth_request request = ask(sessions[i], "token=held");
        if (i % 2) {
            CHECK_EQ(alta_auth_submit(f.engine, &request, on_decision, &places[i], &places[i].ticket), ALTA_AUTH_OK);
        } else {
            CHECK_EQ(alta_auth_queue_submit(f.queue, &request, NULL, NULL), ALTA_AUTH_OK);
        }
    }
    CHECK(backend_wait_requests(f.b, "held", IN_FLIGHT));
    in_child(child, &f);
    CHECK(readable(f.queue_fd, 0)); /* the child has read nothing of the shared descriptor */
    backend_release(f.b, "held");
    alta_auth_completion done[IN_FLIGHT / 2 + 1];
    reap_all(f.queue, done, IN_FLIGHT / 2 + 1);
    sink_wait(&to, IN_FLIGHT / 2);
    for (size_t i = 0; i < IN_FLIGHT / 2 + 1; i++) {
        CHECK_EQ(done[i].decision.verdict, ALTA_AUTH_ALLOW);
    }
    alta_auth_stats stats = stats_of(f.engine);
    CHECK_EQ(stats.completed, IN_FLIGHT + 1);
    check_sums(&stats);
    alta_auth_request request = ask("after", "token=123");
    CHECK_EQ(check_ok(f.engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_queue_free(f.queue);
    alta_auth_engine_free(f.engine);
    sink_destroy(&to);
    backend_stop(f.b);
}

CASE(fork_every_call_in_the_child) {
    fork_with(calls_in_child);
}

CASE(fork_free_in_the_other_order) {
    fork_with(free_in_other_order);
}

CASE(fork_new_engine_in_the_child) {
    fork_with(new_engine_in_child);
}

static void do_nothing(void *context) {
    (void)context;
}

CASE(fork_child_that_only_leaves) {
    fork_with(do_nothing);
}

/* A worker may close all that it was given, and have the same numbers for what is its own by the time it frees. */
static void free_among_strangers(void *context) {
    family *f = context;
    int numbers[1024], own = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(own >= 0);
    bool taken[1024] = {false};
    size_t count = open_descriptors(numbers, 1024), strangers = 0;
    for (size_t i = 0; i < count; i++) {
        char path[64], target[64] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%d", numbers[i]);
        CHECK(readlink(path, target, sizeof target - 1) > 0);
        bool theirs = strncmp(target, "socket:", 7) == 0 || strncmp(target, "anon_inode:", 11) == 0;
        if (theirs && numbers[i] != own) {
            CHECK_EQ(dup3(own, numbers[i], O_CLOEXEC), numbers[i]);
            taken[i] = true;
            strangers++;
        }
    }
    CHECK(strangers > IN_FLIGHT);
    alta_auth_queue_free(f->queue);
    alta_auth_engine_free(f->engine);
    for (size_t i = 0; i < count; i++) {
        CHECK(!taken[i] || fcntl(numbers[i], F_GETFD) == FD_CLOEXEC);
    }
    uint64_t counted;
    CHECK(read(own, &counted, sizeof counted) < 0); /* nor was anything written to it */
}

CASE(fork_free_closes_nothing_of_the_childs) {
    fork_with(free_among_strangers);
}

/* ---- under load ---- */

enum { CHILDREN = 24, SUBMITTERS = 3, WINDOW = 64, PLACES = 1 << 14, A_WHILE = 64 };

typedef struct load {
    family f;
    sem_t room;          /* for checks that are pending */
    atomic_bool over;
    atomic_size_t taken; /* places, in turn, that were submitted with */
    atomic_size_t told;
    int progress[2];     /* gets a byte at every A_WHILE-th completion */
    atomic_size_t times[PLACES];
} load;

static load under;

static void count_one(void *user_data) {
    atomic_size_t *times = user_data;
    atomic_fetch_add(times, 1);
    size_t told = atomic_fetch_add(&under.told, 1) + 1;
    if (told % A_WHILE == 0) {
        /* Full is as good. */
        ssize_t written = write(under.progress[1], "", 1);
        (void)written;
    }
    CHECK_EQ(sem_post(&under.room), 0);
}

static void tell(void *user_data, const alta_auth_decision *decision) {
    CHECK_EQ(decision->verdict, ALTA_AUTH_ALLOW);
    count_one(user_data);
}

static void *keep_submitting(void *context) {
    (void)context;
    for (;;) {
        CHECK_EQ(sem_wait(&under.room), 0);
        size_t place = atomic_fetch_add(&under.taken, 1);
        char session[24];
        snprintf(session, sizeof session, "s%zu", place);
        alta_auth_request request = ask(session, "token=123");
        void *user_data = &under.times[place % PLACES];
        CHECK_EQ(place % 2 ? alta_auth_submit(under.f.engine, &request, tell, user_data, NULL)
                           : alta_auth_queue_submit(under.f.queue, &request, user_data, NULL),
                 ALTA_AUTH_OK);
        if (atomic_load(&under.over)) {
            return NULL;
        }
    }
}

static size_t reap_some(void) {
    alta_auth_completion done[16];
    memset(done, 0, sizeof done);
    done[0].struct_size = sizeof done[0];
    size_t count = alta_auth_queue_reap(under.f.queue, done, 16);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(done[i].decision.verdict, ALTA_AUTH_ALLOW);
        count_one(done[i].user_data);
    }
    return count;
}

static void *keep_reaping(void *context) {
    (void)context;
    while (!atomic_load(&under.over) || atomic_load(&under.told) < atomic_load(&under.taken)) {
        if (readable(under.f.queue_fd, 10)) {
            reap_some();
        }
    }
    return NULL;
}

static void wait_for_progress(void) {
    char byte;
    CHECK(readable(under.progress[0], deadline_ms()));
    CHECK_EQ(read(under.progress[0], &byte, 1), 1);
}

/* Has its copies for a while, or lets go of them first. */
static void reap_and_free(void *context) {
    size_t number = *(size_t *)context;
    alta_auth_completion done[4];
    memset(done, 0, sizeof done);
    done[0].struct_size = sizeof done[0];
    if (number % 2) {
        wait_for_progress();
    }
    CHECK_EQ(alta_auth_queue_reap(under.f.queue, done, 4), 0);
    alta_auth_request request = ask("child", "token=123");
    CHECK_EQ(alta_auth_submit(under.f.engine, &request, never, NULL, NULL), ALTA_AUTH_ERR_FORKED);
    CHECK_EQ(alta_auth_queue_submit(under.f.queue, &request, NULL, NULL), ALTA_AUTH_ERR_FORKED);
    if (number % 4 < 2) {
        free_in_other_order(&under.f);
    } else {
        alta_auth_queue_free(under.f.queue);
        alta_auth_engine_free(under.f.engine);
    }
    wait_for_progress();
}

CASE(fork_under_load) {
    under.f.b = backend_start();
    under.f.engine = engine_with(backend_url(under.f.b), NULL);
    under.f.queue = queue_on(under.f.engine);
    under.f.queue_fd = alta_auth_queue_fd(under.f.queue);
    CHECK_EQ(sem_init(&under.room, 0, WINDOW), 0);
    CHECK_EQ(pipe2(under.progress, O_CLOEXEC | O_NONBLOCK), 0);
    pthread_t threads[SUBMITTERS + 1];
    for (size_t i = 0; i <= SUBMITTERS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, i < SUBMITTERS ? keep_submitting : keep_reaping, NULL), 0);
    }
    for (size_t child = 0; child < CHILDREN; child++) {
        char said[256];
        while (read(under.progress[0], said, sizeof said) > 0) {
        }
        wait_for_progress(); /* checks are on their way */
        in_child(reap_and_free, &child);
    }
    atomic_store(&under.over, true);
    for (size_t i = 0; i <= SUBMITTERS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    CHECK_EQ(alta_auth_engine_drain(under.f.engine, UINT32_MAX), ALTA_AUTH_OK);
    while (reap_some() > 0) {
    }
    size_t taken = atomic_load(&under.taken);
    for (size_t i = 0; i < PLACES; i++) {
        CHECK_EQ(atomic_load(&under.times[i]), taken / PLACES + (i < taken % PLACES));
    }
    alta_auth_stats stats = stats_of(under.f.engine);
    CHECK_EQ(stats.submitted, taken);
    CHECK_EQ(stats.completed, taken);
    check_sums(&stats);
    alta_auth_queue_free(under.f.queue);
    alta_auth_engine_free(under.f.engine);
    CHECK_EQ(sem_destroy(&under.room), 0);
    close(under.progress[0]);
    close(under.progress[1]);
    backend_stop(under.f.b);
}
