/* The plain exchange through the C ABI: distinct sessions, 64 in flight, each answered by the backend.
 *
 *     exchange queue|single|callback URL SECONDS|xCHECKS [key=value ...]
 *
 * queue: this thread polls the queue's descriptor, reaps all there is and submits as many again, in one batch. single: the
 * same with one check in flight, so that no two share a wake-up. callback: each callback submits the next check. SECONDS of submitting, or exactly CHECKS; what is pending at the end is waited for.
 * Each decision must be an allow by the backend, and each check must have been an exchange of its own.
 *
 * With `allocations.so` preloaded it also says what was allocated after the first half of the checks. */
#define _GNU_SOURCE
#include "engine.h"
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>

enum { IN_FLIGHT = 64 };

extern unsigned long bench_allocations(void) __attribute__((weak));

typedef struct slot {
    alta_auth_request request;
    char session[SESSION_DIGITS];
    uint64_t submitted_at;
} slot;

static slot slots[IN_FLIGHT];
static alta_auth_engine *engine;
static latencies all;
static uint64_t submitted, ended, most = UINT64_MAX, end_at = UINT64_MAX, allocated_at_half, half;
static size_t in_flight = IN_FLIGHT;
static sem_t over;
static char next_session[SESSION_DIGITS];

static int wanted(uint64_t now) {
    return submitted < most && now < end_at;
}

static void prepare(slot *into, uint64_t now) {
    session_next(next_session);
    memcpy(into->session, next_session, SESSION_DIGITS);
    into->submitted_at = now;
    submitted++;
}

static void end(const slot *of, const alta_auth_decision *decision, uint64_t now) {
    need_backend_allow(decision);
    latencies_add(&all, now - of->submitted_at);
    if (++ended == half && bench_allocations != NULL) {
        allocated_at_half = bench_allocations();
    }
}

static void by_queue(void) {
    alta_auth_queue *queue;
    need(alta_auth_queue_new(engine, &queue) == 0, "queue_new");
    struct pollfd readable = {alta_auth_queue_fd(queue), POLLIN, 0};
    static alta_auth_completion done[IN_FLIGHT] = {ALTA_AUTH_COMPLETION_INIT};
    static alta_auth_request batch[IN_FLIGHT];
    static void *user_data[IN_FLIGHT];
    static slot *free_slots[IN_FLIGHT];
    size_t free_count = in_flight;
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        free_slots[i] = &slots[i];
    }
    for (uint64_t now = now_ns(); wanted(now) || ended < submitted;) {
        size_t count = 0;
        while (free_count > 0 && wanted(now)) {
            slot *into = free_slots[--free_count];
            prepare(into, now);
            batch[count] = into->request;
            user_data[count++] = into;
        }
        if (count > 0) {
            need(alta_auth_queue_submit_batch(queue, batch, count, user_data, NULL) == count, "submit_batch");
        }
        need(poll(&readable, 1, 30000) == 1, "nothing came in 30 s");
        size_t reaped = alta_auth_queue_reap(queue, done, IN_FLIGHT);
        now = now_ns();
        for (size_t i = 0; i < reaped; i++) {
            slot *of = done[i].user_data;
            end(of, &done[i].decision, now);
            free_slots[free_count++] = of;
        }
    }
    alta_auth_queue_free(queue);
}

/* All on the one callback thread, so nothing here is shared. */
static void decided(void *user_data, const alta_auth_decision *decision) {
    slot *of = user_data;
    uint64_t now = now_ns();
    end(of, decision, now);
    if (wanted(now)) {
        prepare(of, now);
        need(alta_auth_submit(engine, &of->request, decided, of, NULL) == 0, "submit");
    } else if (ended == submitted) {
        sem_post(&over);
    }
}

static void begin(void *user_data, const alta_auth_decision *decision) {
    (void)user_data, (void)decision;
    uint64_t now = now_ns();
    for (size_t i = 0; i < IN_FLIGHT && wanted(now); i++) {
        prepare(&slots[i], now);
        need(alta_auth_submit(engine, &slots[i].request, decided, &slots[i], NULL) == 0, "submit");
    }
}

/* One check to reach the callback thread, where the others begin. */
static void by_callback(void) {
    static char session[SESSION_DIGITS] = "the-first-check.";
    alta_auth_request first = request_of(session);
    sem_init(&over, 0, 0);
    need(alta_auth_submit(engine, &first, begin, NULL, NULL) == 0, "submit");
    sem_wait(&over);
}

int main(int argc, char **argv) {
    need(argc >= 4, "usage: exchange queue|single|callback URL SECONDS|xCHECKS [key=value ...]");
    static const char *const keys[] = {"pool.max_connections", "64", "timeout", "20s", NULL};
    int callback = strcmp(argv[1], "callback") == 0;
    in_flight = strcmp(argv[1], "single") == 0 ? 1 : IN_FLIGHT;
    session_set(next_session, 0);
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        slots[i].request = request_of(slots[i].session);
    }
    if (argv[3][0] == 'x') {
        most = strtoul(argv[3] + 1, NULL, 10);
        half = most / 2;
    }
    engine = engine_of(argv[2], keys, argv + 4);
    uint64_t began = now_ns();
    if (argv[3][0] != 'x') {
        end_at = began + (uint64_t)(strtod(argv[3], NULL) * 1e9);
    }
    if (callback) {
        by_callback();
    } else {
        by_queue();
    }
    double took = (double)(now_ns() - began) / 1e9;
    need(alta_auth_engine_drain(engine, 10000) == 0, "drain");
    alta_auth_stats stats = stats_of(engine);
    uint64_t checks = ended + (uint64_t)callback;
    if (stats.exchanges != checks || stats.from_backend != checks || stats.coalesced != 0 || stats.retries != 0) {
        void_run("%lu checks, %lu exchanges, %lu from the backend, %lu coalesced, %lu retries", checks, stats.exchanges,
                 stats.from_backend, stats.coalesced, stats.retries);
    }
    printf("checks=%lu seconds=%.3f connections=%lu ", checks, took, stats.connections_opened);
    latencies_print(&all);
    if (bench_allocations != NULL && half > 0) {
        printf("allocations=%.4f ", (double)(bench_allocations() - allocated_at_half) / (double)(ended - half));
    }
    printf("\n");
    alta_auth_engine_free(engine);
    return 0;
}
