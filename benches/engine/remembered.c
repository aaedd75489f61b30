/* Remembered decisions through the C ABI: bytes each, what a lookup costs among few and among many, and what an exchange costs
 * while few and while many sessions live.
 *
 *     remembered URL SESSIONS|xLOOKUPS [key=value ...]
 *
 * The server at URL lets its answers be remembered. Keys have 200 bytes or so. With `allocations.so` preloaded it says what
 * the lookups allocated. With `x`, so many lookups among 64 sessions and no more, for callgrind. */
#define _GNU_SOURCE
#include "engine.h"
#include <poll.h>
#include <sys/resource.h>

enum { FEW = 1024, IN_FLIGHT = 64, ROUNDS = 15, MOST_LOOKUPS = 200000, EXCHANGES = 20000 };

extern unsigned long bench_allocations(void) __attribute__((weak));

static char (*sessions)[SESSION_DIGITS];

static double resident(void) {
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    need(file != NULL && fscanf(file, "%ld %ld", &ignored, &pages) == 2, "/proc/self/statm");
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double cpu_us(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static uint64_t random_next(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

/* Asks the backend about `count` sessions, 64 in flight: those from `from` on, or those that `choose` picks. */
static void ask(alta_auth_engine *engine, uint64_t from, uint64_t count, uint64_t (*choose)(uint64_t), uint32_t flags) {
    alta_auth_queue *queue;
    static alta_auth_completion done[IN_FLIGHT] = {ALTA_AUTH_COMPLETION_INIT};
    need(alta_auth_queue_new(engine, &queue) == 0, "queue_new");
    struct pollfd readable = {alta_auth_queue_fd(queue), POLLIN, 0};
    for (uint64_t begun = 0, ended = 0; ended < count;) {
        while (begun < count && begun - ended < IN_FLIGHT) {
            alta_auth_request request = request_of(sessions[choose == NULL ? from + begun : choose(begun)]);
            request.flags = flags;
            need(alta_auth_queue_submit(queue, &request, NULL, NULL) == 0, "submit");
            begun++;
        }
        need(poll(&readable, 1, 30000) == 1, "nothing came in 30 s");
        size_t reaped = alta_auth_queue_reap(queue, done, IN_FLIGHT);
        for (size_t i = 0; i < reaped; i++) {
            need_backend_allow(&done[i].decision);
        }
        ended += reaped;
    }
    alta_auth_queue_free(queue);
}

static int by_size(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

/* The median in nanoseconds of CPU of this thread. */
static double lookups(alta_auth_engine *engine, uint64_t among, int count, int rounds, const char *name) {
    static uint32_t order[MOST_LOOKUPS];
    need(count <= MOST_LOOKUPS, "too many lookups");
    double took[ROUNDS];
    unsigned long allocated = 0;
    for (int i = 0; i < count; i++) {
        order[i] = (uint32_t)(random_next() % among);
    }
    for (int round = 0; round < rounds; round++) {
        alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
        alta_auth_request request = request_of(sessions[0]);
        unsigned long before = bench_allocations == NULL ? 0 : bench_allocations();
        uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < count; i++) {
            request.session_id.ptr = sessions[order[i]];
            if (alta_auth_lookup(engine, &request, &decision) != 0 || decision.verdict != ALTA_AUTH_ALLOW) {
                void_run("a lookup found nothing");
            }
        }
        took[round] = (double)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - began) / count;
        allocated = bench_allocations == NULL ? 0 : bench_allocations() - before;
    }
    qsort(took, (size_t)rounds, sizeof *took, by_size);
    printf("%s_ns=%.1f %s_low=%.1f %s_high=%.1f ", name, took[rounds / 2], name, took[0], name, took[rounds - 1]);
    if (bench_allocations != NULL) {
        printf("%s_allocations=%lu ", name, allocated);
    }
    return took[rounds / 2];
}

static uint64_t live;

/* Never one that is in flight: those 64 before are others. */
static uint64_t scattered(uint64_t index) {
    return index * 7919 % live;
}

/* CPU a check in microseconds, all threads, with so many sessions alive; the median of five. */
static double exchange_us(alta_auth_engine *engine, uint64_t alive) {
    enum { TIMES = 5 };
    double took[TIMES];
    live = alive;
    for (int i = 0; i < TIMES; i++) {
        double before = cpu_us();
        ask(engine, 0, EXCHANGES, scattered, ALTA_AUTH_FRESH);
        took[i] = (cpu_us() - before) / EXCHANGES;
    }
    qsort(took, TIMES, sizeof *took, by_size);
    return took[TIMES / 2];
}

int main(int argc, char **argv) {
    need(argc >= 3, "usage: remembered URL SESSIONS [key=value ...]");
    static const char *const keys[] = {"pool.max_connections", "64",      "timeout", "20s", "memory.max_decisions",
                                       "2000000",              "memory.max_bytes", "2GiB", NULL};
    int once = argv[2][0] == 'x';
    uint64_t number = strtoul(argv[2] + once, NULL, 10), many = once ? IN_FLIGHT : number, few = once ? IN_FLIGHT : FEW;
    need(many >= few, "at least 1,024 sessions");
    sessions = malloc(many * SESSION_DIGITS);
    for (uint64_t i = 0; i < many; i++) {
        session_set(sessions[i], i);
    }
    alta_auth_engine *engine = engine_of(argv[1], keys, argv + 3);
    ask(engine, 0, few, NULL, 0);
    if (once) {
        lookups(engine, few, (int)number, 1, "few");
        printf("\n");
        return 0;
    }
    lookups(engine, FEW, MOST_LOOKUPS, ROUNDS, "few");
    /* 64 are in flight at a time, so among no fewer than twice as many. */
    double few_us = exchange_us(engine, 128);
    double before = resident();
    ask(engine, FEW, many - FEW, NULL, 0);
    printf("bytes=%.1f ", (resident() - before) / (double)(many - FEW));
    lookups(engine, many, MOST_LOOKUPS, ROUNDS, "many");
    double many_us = exchange_us(engine, many);
    need(stats_of(engine).remembered >= many, "fewer are remembered than were asked about");
    printf("exchange_few_us=%.2f exchange_many_us=%.2f\n", few_us, many_us);
    alta_auth_engine_free(engine);
    return 0;
}
