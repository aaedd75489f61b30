/* What a remembered decision and a joiner cost, through the C ABI: nanoseconds a lookup at 1,024 and at 1,000,000 sessions,
 * allocations a lookup, memory a decision, and CPU a joiner on the library's threads. `make bench-memory` builds and runs it.
 *
 * The backend is a process of its own that answers at once, or after 50 ms where the query says so. Void, and exit 1, if a
 * verdict or origin is not what it must be. With an argument: one part, once, for callgrind: `few` or `joiners`. */
#define _GNU_SOURCE
#include <alta_auth.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static _Atomic unsigned long allocations;
static int once; /* for callgrind */

/* Every allocation of the process comes through here, those of the shared library too. */
void *malloc(size_t size) {
    static void *(*real)(size_t);
    if (real == NULL) {
        real = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    }
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return real(size);
}

static void die(const char *what) {
    fprintf(stderr, "%s: void\n", what);
    exit(1);
}

static double now_ns(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

/* ---- the backend ---- */

static void serve(int listener) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nX-AuthDuration: 36000\r\nContent-Length: 0\r\n\r\n";
    static char heads[65536][512];
    static size_t lengths[65536];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[64];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, ready, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                fd = accept(listener, NULL, NULL);
                if (fd >= 0) {
                    event.data.fd = fd;
                    lengths[fd % 65536] = 0;
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            char *head = heads[fd % 65536];
            size_t *length = &lengths[fd % 65536];
            ssize_t got = read(fd, head + *length, 511 - *length);
            if (got <= 0) {
                close(fd);
                continue;
            }
            *length += (size_t)got;
            head[*length] = 0;
            if (strstr(head, "\r\n\r\n") != NULL) {
                if (strstr(head, "slow=1") != NULL) {
                    usleep(50000);
                }
                *length = 0;
                if (write(fd, answer, sizeof answer - 1) < 0) {
                    close(fd);
                }
            }
        }
    }
}

static unsigned start_backend(void) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&address, &size)) {
        die("the backend cannot listen");
    }
    if (fork() == 0) {
        serve(listener);
    }
    close(listener);
    return ntohs(address.sin_port);
}

/* ---- the host ---- */

static alta_auth_engine *engine(unsigned port) {
    char url[64], error[256];
    alta_auth_engine *made;
    alta_auth_config *config = alta_auth_config_new();
    snprintf(url, sizeof url, "http://127.0.0.1:%u/auth", port);
    const char *keys[][2] = {{"backend.url", url}, {"default_action", "deny"}, {"timeout", "30s"},
                             {"memory.max_decisions", "2000000"}, {"memory.max_bytes", "2GiB"}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (alta_auth_config_set(config, keys[i][0], keys[i][1], error, sizeof error)) {
            die(error);
        }
    }
    if (alta_auth_engine_new(config, &made, error, sizeof error)) {
        die(error);
    }
    return made;
}

/* With its session id: a key of 200 bytes, 15 of which are the library's own. */
static alta_auth_request request(unsigned long session, char id[32]) {
    static const char agent[] = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0";
    alta_auth_request check = ALTA_AUTH_REQUEST_INIT;
    snprintf(id, 32, "%024lx", session);
    check.session_id = alta_auth_str_of(id);
    check.ip = alta_auth_str_of("192.0.2.123");
    check.path = alta_auth_str_of("/channel/index.m3u8");
    check.query = alta_auth_str_of("token=0123456789abcdef0123456789ab");
    check.origin = alta_auth_str_of("https://live.example.com");
    check.user_agent = alta_auth_str_of(agent);
    return check;
}

static void remember(alta_auth_engine *on, unsigned long from, unsigned long to) {
    alta_auth_queue *queue;
    static alta_auth_completion done[256];
    if (alta_auth_queue_new(on, &queue)) {
        die("no queue");
    }
    for (int i = 0; i < 256; i++) {
        done[i] = (alta_auth_completion)ALTA_AUTH_COMPLETION_INIT;
    }
    unsigned long next = from, pending = 0;
    while (next < to || pending > 0) {
        while (next < to && pending < 1024) {
            char id[32];
            alta_auth_request check = request(next, id);
            if (alta_auth_queue_submit(queue, &check, NULL, NULL)) {
                die("submit");
            }
            next++;
            pending++;
        }
        struct pollfd wait = {.fd = alta_auth_queue_fd(queue), .events = POLLIN};
        poll(&wait, 1, -1);
        size_t count = alta_auth_queue_reap(queue, done, 256);
        for (size_t i = 0; i < count; i++) {
            if (done[i].decision.verdict != ALTA_AUTH_ALLOW || done[i].decision.origin != ALTA_AUTH_ORIGIN_BACKEND) {
                die("a check was not answered by the backend");
            }
        }
        pending -= count;
    }
    alta_auth_queue_free(queue);
}

static int by_size(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static void lookups(alta_auth_engine *on, unsigned long sessions) {
    enum { ROUNDS = 15, EACH = 200000 };
    static char ids[EACH][32];
    static alta_auth_request checks[EACH];
    double rounds[ROUNDS] = {0};
    unsigned long random = 88172645463325252UL, allocated = 0;
    for (int i = 0; i < EACH; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        checks[i] = request(random % sessions, ids[i]);
    }
    for (int round = 0; round < (once ? 1 : ROUNDS); round++) {
        alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
        unsigned long before = atomic_load(&allocations);
        double began = now_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < EACH; i++) {
            if (alta_auth_lookup(on, &checks[i], &decision) || decision.verdict != ALTA_AUTH_ALLOW) {
                die("a lookup found nothing");
            }
        }
        rounds[round] = (now_ns(CLOCK_THREAD_CPUTIME_ID) - began) / EACH;
        allocated = atomic_load(&allocations) - before;
    }
    qsort(rounds, ROUNDS, sizeof *rounds, by_size);
    printf("lookup, %lu sessions: %.0f ns (median of %d; %.0f to %.0f), %lu allocations in %d\n", sessions,
           rounds[ROUNDS / 2], ROUNDS, rounds[0], rounds[ROUNDS - 1], allocated, EACH);
}

/* CPU of the library's threads, in nanoseconds. */
static double threads_ns(void) {
    double sum = 0;
    DIR *tasks = opendir("/proc/self/task");
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

static _Atomic unsigned long allowed, coalesced;

static void decided(void *user_data, const alta_auth_decision *decision) {
    (void)user_data;
    atomic_fetch_add(&allowed, decision->verdict == ALTA_AUTH_ALLOW);
    atomic_fetch_add(&coalesced, (decision->flags & ALTA_AUTH_COALESCED) != 0);
}

static void joiners(unsigned port) {
    enum { ROUNDS = 15, JOINERS = 10000 };
    double rounds[ROUNDS] = {0};
    alta_auth_engine *on = engine(port);
    for (int round = 0; round < (once ? 1 : ROUNDS); round++) {
        char id[32];
        alta_auth_request check = request((unsigned long)round, id);
        check.query = alta_auth_str_of("slow=1&token=0123456789abcdef0123456789ab");
        allowed = coalesced = 0;
        double began = threads_ns();
        for (int i = 0; i < JOINERS; i++) {
            if (alta_auth_submit(on, &check, decided, NULL, NULL)) {
                die("submit");
            }
        }
        if (alta_auth_engine_drain(on, 30000) || allowed != JOINERS || coalesced != JOINERS - 1) {
            die("joiners");
        }
        rounds[round] = (threads_ns() - began) / JOINERS;
    }
    alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
    alta_auth_stats_read(on, &stats);
    if (stats.exchanges != (once ? 1 : ROUNDS)) {
        die("more than one exchange");
    }
    qsort(rounds, ROUNDS, sizeof *rounds, by_size);
    printf("joiner, %d at once: %.0f ns CPU on the library's threads, callback included (median of %d; %.0f to %.0f), "
           "1 exchange\n",
           JOINERS, rounds[ROUNDS / 2], ROUNDS, rounds[0], rounds[ROUNDS - 1]);
    alta_auth_engine_free(on);
}

static double resident(void) {
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &ignored, &pages) != 2) {
        die("/proc/self/statm");
    }
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

int main(int argc, char **argv) {
    enum { FEW = 1024, MANY = 1000000 };
    setvbuf(stdout, NULL, _IOLBF, 0);
    once = argc > 1;
    unsigned port = start_backend();
    if (!once || strcmp(argv[1], "joiners") == 0) {
        joiners(port);
    }
    if (once && strcmp(argv[1], "few") != 0) {
        return 0;
    }
    alta_auth_engine *on = engine(port);
    remember(on, 0, FEW);
    lookups(on, FEW);
    if (once) {
        return 0;
    }
    double before = resident();
    double began = now_ns(CLOCK_MONOTONIC);
    remember(on, FEW, MANY);
    double took = (now_ns(CLOCK_MONOTONIC) - began) / 1e9;
    printf("memory: %.0f bytes a remembered decision, all that the process grew by (%d in %.1f s)\n",
           (resident() - before) / (MANY - FEW), MANY - FEW, took);
    lookups(on, MANY);
    alta_auth_engine_free(on);
    return 0;
}
