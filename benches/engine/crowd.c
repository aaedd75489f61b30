/* What crowds cost, through the C ABI.
 *
 *     crowd joiners URL COUNT|xCOUNT [key=value ...]  checks of one session at once, of a server that takes its time
 *     crowd submit  URL COUNT|xCOUNT [...]            submits while the I/O thread is busy, of a server that hangs
 *     crowd pending URL COUNT|xCOUNT [...]            checks pending at once, of a server that hangs
 *     crowd idle    URL COUNT [...]                   connections kept, of a server that takes its time
 *
 * submit: the I/O thread is held in a callback (`threads.callback = 0`), so it is awake and takes nothing. With `x` one
 * round and no more, for counting instructions and system calls. pending, idle: bytes are all that the process grows by, the
 * engine's own tables included in pending; with `x` the checks are not waited for. */
#define _GNU_SOURCE
#include "engine.h"
#include <dirent.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>

enum { ROUNDS = 11 };

static alta_auth_request *requests;
static char (*sessions)[SESSION_DIGITS];

static void prepare(uint64_t count, uint64_t from) {
    if (sessions == NULL) {
        sessions = malloc(count * SESSION_DIGITS);
        requests = malloc(count * sizeof *requests);
    }
    for (uint64_t i = 0; i < count; i++) {
        session_set(sessions[i], from + i);
        requests[i] = request_of(sessions[i]);
    }
}

static int by_size(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static double resident(void) {
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    need(file != NULL && fscanf(file, "%ld %ld", &ignored, &pages) == 2, "/proc/self/statm");
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* ---- joiners ---- */

static _Atomic unsigned long allowed, coalesced, ended;

static void joined(void *user_data, const alta_auth_decision *decision) {
    (void)user_data;
    need_backend_allow(decision);
    atomic_fetch_add(&allowed, decision->verdict == ALTA_AUTH_ALLOW);
    atomic_fetch_add(&coalesced, (decision->flags & ALTA_AUTH_COALESCED) != 0);
}

/* CPU of the library's threads, in nanoseconds. */
static double library_ns(void) {
    double sum = 0;
    DIR *tasks = opendir("/proc/self/task");
    need(tasks != NULL, "/proc/self/task");
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL) {
            continue;
        }
        if (fgets(name, sizeof name, file) == NULL) {
            name[0] = 0;
        }
        fclose(file);
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", task->d_name);
        double ran = 0;
        if (strncmp(name, "alta-", 5) == 0 && (file = fopen(path, "r")) != NULL) {
            if (fscanf(file, "%lf", &ran) == 1) {
                sum += ran;
            }
            fclose(file);
        }
    }
    closedir(tasks);
    return sum;
}

static void joiners(const char *url, uint64_t count, unsigned rounds, char **more) {
    static const char *const keys[] = {"timeout", "20s", NULL};
    alta_auth_engine *engine = engine_of(url, keys, more);
    double took[ROUNDS];
    for (unsigned round = 0; round < rounds; round++) {
        char session[SESSION_DIGITS];
        session_set(session, round);
        alta_auth_request check = request_of(session);
        allowed = coalesced = 0;
        double began = library_ns();
        for (uint64_t i = 0; i < count; i++) {
            need(alta_auth_submit(engine, &check, joined, NULL, NULL) == 0, "submit");
        }
        need(alta_auth_engine_drain(engine, 30000) == 0, "drain");
        if (allowed != count || coalesced != count - 1) {
            void_run("%lu of %lu allowed, %lu coalesced", allowed, count, coalesced);
        }
        took[round] = (library_ns() - began) / (double)count;
    }
    need(stats_of(engine).exchanges == rounds, "more than one exchange for one session");
    qsort(took, rounds, sizeof *took, by_size);
    printf("joiner_ns=%.1f joiner_low=%.1f joiner_high=%.1f\n", took[rounds / 2], took[0], took[rounds - 1]);
    alta_auth_engine_free(engine);
}

/* ---- submit ---- */

static sem_t held, release;

static void hold(void *user_data, const alta_auth_decision *decision) {
    (void)user_data, (void)decision;
    sem_post(&held);
    while (sem_wait(&release) != 0) {
    }
}

static void count_end(void *user_data, const alta_auth_decision *decision) {
    (void)user_data;
    need(decision->origin == ALTA_AUTH_ORIGIN_DEFAULT, "an answer of a server that hangs");
    atomic_fetch_add(&ended, 1);
}

static void submit(const char *url, uint64_t count, int once, char **more) {
    static const char *const keys[] = {"timeout", "100ms", "threads.callback", "0", NULL};
    alta_auth_engine *engine = engine_of(url, keys, more);
    static char first[SESSION_DIGITS] = "holds-the-thread";
    alta_auth_request holder = request_of(first);
    double took[ROUNDS];
    sem_init(&held, 0, 0);
    sem_init(&release, 0, 0);
    for (unsigned round = 0; round < (once ? 1 : ROUNDS); round++) {
        prepare(count, round * count);
        need(alta_auth_submit(engine, &holder, hold, NULL, NULL) == 0, "submit");
        while (sem_wait(&held) != 0) {
        }
        uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        for (uint64_t i = 0; i < count; i++) {
            need(alta_auth_submit(engine, &requests[i], count_end, NULL, NULL) == 0, "submit");
        }
        took[round] = (double)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - began) / (double)count;
        if (once) {
            printf("submit_ns=%.1f\n", took[0]);
            fflush(stdout);
            _exit(0);
        }
        sem_post(&release);
        need(alta_auth_engine_drain(engine, 30000) == 0, "drain");
        need(ended == (round + 1) * count, "a check was lost");
    }
    qsort(took, ROUNDS, sizeof *took, by_size);
    printf("submit_ns=%.1f submit_low=%.1f submit_high=%.1f\n", took[ROUNDS / 2], took[0], took[ROUNDS - 1]);
    alta_auth_engine_free(engine);
}

/* ---- pending, idle ---- */

/* Once it has stopped growing. */
static double resident_at_rest(void) {
    const struct timespec pause = {.tv_nsec = 200000000};
    double last, now = resident();
    do {
        last = now;
        nanosleep(&pause, NULL);
        now = resident();
    } while (now != last);
    return now;
}

static void pending(const char *url, uint64_t count, int once, char **more) {
    enum { TIMEOUT_MS = 3000, AT_ONCE = 256 };
    static const char *const keys[] = {"timeout", "3s", "inbox.capacity", "131072", "pool.max_connections", "64", NULL};
    uint64_t *submitted_at = malloc(count * sizeof *submitted_at);
    memset(submitted_at, 1, count * sizeof *submitted_at);
    prepare(count, 0);
    static alta_auth_completion done[AT_ONCE] = {ALTA_AUTH_COMPLETION_INIT};
    double before = resident();
    alta_auth_engine *engine = engine_of(url, keys, more);
    alta_auth_queue *queue;
    need(alta_auth_queue_new(engine, &queue) == 0, "queue_new");
    for (uint64_t i = 0; i < count; i++) {
        submitted_at[i] = now_ns();
        need(alta_auth_queue_submit(queue, &requests[i], &submitted_at[i], NULL) == 0, "submit");
    }
    uint64_t submitting = now_ns() - submitted_at[0];
    double bytes = (resident_at_rest() - before) / (double)count;
    need(stats_of(engine).pending == count, "not all were pending at once: this machine was too slow to submit them");
    if (once) {
        printf("pending_bytes=%.1f\n", bytes);
        fflush(stdout);
        _exit(0);
    }
    uint64_t latest = 0, timeouts = 0, reaped = 0, decided_latest = 0;
    struct pollfd readable = {alta_auth_queue_fd(queue), POLLIN, 0};
    while (reaped < count) {
        need(poll(&readable, 1, 30000) == 1, "nothing came in 30 s");
        size_t got = alta_auth_queue_reap(queue, done, AT_ONCE);
        uint64_t now = now_ns();
        for (size_t i = 0; i < got; i++) {
            uint64_t took = now - *(uint64_t *)done[i].user_data;
            need(done[i].decision.origin == ALTA_AUTH_ORIGIN_DEFAULT, "an answer of a server that hangs");
            timeouts += done[i].decision.cause == ALTA_AUTH_CAUSE_TIMEOUT;
            latest = took > latest ? took : latest;
            decided_latest = done[i].decision.latency_ns > decided_latest ? done[i].decision.latency_ns : decided_latest;
        }
        reaped += got;
    }
    alta_auth_stats stats = stats_of(engine);
    need(stats.submitted == count && stats.completed == count && stats.pending == 0, "a check was lost");
    printf("pending_bytes=%.1f late_ms=%.2f decided_late_ms=%.2f timeouts=%lu submitting_ms=%.1f\n", bytes,
           (double)latest / 1e6 - TIMEOUT_MS, (double)decided_latest / 1e6 - TIMEOUT_MS, timeouts,
           (double)submitting / 1e6);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
}

static void idle(const char *url, uint64_t count, char **more) {
    char connections[24];
    snprintf(connections, sizeof connections, "%lu", count);
    const char *const keys[] = {"timeout", "30s", "pool.idle_timeout", "10m", "pool.max_connections", connections, NULL};
    alta_auth_engine *engine = engine_of(url, keys, more);
    alta_auth_queue *queue;
    need(alta_auth_queue_new(engine, &queue) == 0, "queue_new");
    prepare(count, 0);
    double before = resident_at_rest();
    for (uint64_t i = 0; i < count; i++) {
        need(alta_auth_queue_submit(queue, &requests[i], NULL, NULL) == 0, "submit");
    }
    struct pollfd readable = {alta_auth_queue_fd(queue), POLLIN, 0};
    static alta_auth_completion done[64] = {ALTA_AUTH_COMPLETION_INIT};
    for (uint64_t reaped = 0; reaped < count;) {
        need(poll(&readable, 1, 30000) == 1, "nothing came in 30 s");
        size_t got = alta_auth_queue_reap(queue, done, 64);
        for (size_t i = 0; i < got; i++) {
            need_backend_allow(&done[i].decision);
        }
        reaped += got;
    }
    double bytes = (resident_at_rest() - before) / (double)count;
    need(stats_of(engine).connections_idle == count, "not all connections are idle: the server was too quick");
    printf("idle_bytes=%.1f\n", bytes);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
}

int main(int argc, char **argv) {
    need(argc >= 4, "usage: crowd joiners|submit|pending|idle URL COUNT [key=value ...]");
    int once = argv[3][0] == 'x';
    uint64_t count = strtoul(argv[3] + once, NULL, 10);
    if (strcmp(argv[1], "joiners") == 0) {
        joiners(argv[2], count, once ? 1 : ROUNDS, argv + 4);
    } else if (strcmp(argv[1], "submit") == 0) {
        submit(argv[2], count, once, argv + 4);
    } else if (strcmp(argv[1], "pending") == 0) {
        pending(argv[2], count, once, argv + 4);
    } else {
        need(strcmp(argv[1], "idle") == 0, "joiners, submit, pending or idle");
        idle(argv[2], count, argv + 4);
    }
    return 0;
}
