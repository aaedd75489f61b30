/* The library as a guest in a process: threads, signals, descriptors, ends. */
#define _GNU_SOURCE
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

extern char **environ;

static const reply held = {.status = 200, .hold = true};

/* ---- threads and signals ---- */

/* The threads named alta-* block every signal that can be blocked; returns how many there are. */
static size_t check_signal_masks(void) {
    /* valgrind keeps its program's masks to itself: the kernel shows what valgrind blocks just then. */
    bool own_masks = strcmp(run_under(), "valgrind") == 0;
    size_t seen_threads = 0;
    DIR *directory = opendir("/proc/self/task");
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char path[300], line[256], name[32] = "";
        unsigned long long blocked = 0;
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        FILE *file = fopen(path, "re");
        CHECK(file != NULL);
        while (fgets(line, sizeof line, file)) {
            if (sscanf(line, "Name: %31s", name) != 1) {
                sscanf(line, "SigBlk: %llx", &blocked);
            }
        }
        fclose(file);
        if (strncmp(name, "alta-", 5) != 0) {
            continue;
        }
        seen_threads++;
        for (int signal_number = 1; signal_number <= 64; signal_number++) {
            bool blockable = signal_number != SIGKILL && signal_number != SIGSTOP &&
                             (signal_number < 32 || signal_number >= SIGRTMIN); /* glibc keeps 32 and 33 */
            if (blockable && !own_masks && !(blocked >> (signal_number - 1) & 1)) {
                fail(__FILE__, __LINE__, "%s does not block signal %d", name, signal_number);
            }
        }
    }
    closedir(directory);
    return seen_threads;
}

CASE(thread_names_and_signal_masks) {
    backend *b = backend_start();
    size_t before = count_threads("");
    alta_auth_engine *engine = engine_with(backend_url(b), "threads.io", "2", "threads.callback", "3", NULL);
    sink to;
    sink_init(&to);
    for (int i = 0; i < 20; i++) {
        seen place;
        seen_init(&place, &to);
        alta_auth_request request = ask(i % 2 ? "s1" : "s2", "token=123");
        submit_and_wait(engine, &request, &place);
    }
    expected_threads io = {"alta-io-", 2}, callback = {"alta-cb-", 3}, ours = {"alta-", 5}, all = {"", before + 5};
    CHECK(eventually(thread_count_is, &io));
    CHECK(eventually(thread_count_is, &callback));
    CHECK(eventually(thread_count_is, &ours));
    CHECK(eventually(thread_count_is, &all)); /* and there are no others */
    CHECK_EQ(check_signal_masks(), 5);
    alta_auth_engine_free(engine);
    expected_threads none = {"", before};
    CHECK(eventually(thread_count_is, &none));
    sink_destroy(&to);
    backend_stop(b);
}

CASE(resolvers_thread_name_and_signal_mask) {
    size_t before = count_threads("");
    alta_auth_engine *engine = engine_with("http://localhost:1/auth", NULL);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    expected_threads dns = {"alta-dns", 1}, ours = {"alta-", 3}, none = {"", before};
#ifdef __SANITIZE_THREAD__
    /* Where two threads start others at the same time, ThreadSanitizer begins a second thread of its own. */
    none = (expected_threads){"alta-", 0};
#endif
    CHECK(eventually(thread_count_is, &dns));
    CHECK(eventually(thread_count_is, &ours));
    CHECK_EQ(check_signal_masks(), 3);
    alta_auth_engine_free(engine);
    CHECK(eventually(thread_count_is, &none));
}

CASE(nothing_starts_before_engine_new) {
    size_t threads = count_threads(""), descriptors = open_descriptors(NULL, 0);
    CHECK(alta_auth_version() != NULL);
    alta_auth_config *config = config_with("http://127.0.0.1:1/auth", NULL);
    CHECK_EQ(count_threads(""), threads);
    CHECK_EQ(open_descriptors(NULL, 0), descriptors);
    alta_auth_config_free(config);
    CHECK_EQ(open_descriptors(NULL, 0), descriptors);
}

CASE(no_handler_no_mask_no_variable_is_changed) {
    struct sigaction before[65];
    sigset_t mask_before, mask_after;
    size_t variables = 0;
    memset(before, 0, sizeof before);
    for (int s = 1; s <= 64; s++) {
        sigaction(s, NULL, &before[s]);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &mask_before);
    while (environ[variables]) {
        variables++;
    }
    char **copy = calloc(variables + 1, sizeof *copy);
    CHECK(copy != NULL);
    for (size_t i = 0; i < variables; i++) {
        copy[i] = strdup(environ[i]);
    }
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_request request = ask("s", "token=123");
    check_ok(engine, &request);
    for (int s = 1; s <= 64; s++) {
        struct sigaction now;
        memset(&now, 0, sizeof now);
        sigaction(s, NULL, &now);
        CHECK(now.sa_handler == before[s].sa_handler);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
    for (int s = 1; s <= 64; s++) {
        CHECK_EQ(sigismember(&mask_before, s), sigismember(&mask_after, s));
    }
    for (size_t i = 0; i < variables; i++) {
        CHECK_TEXT(environ[i], copy[i]);
        free(copy[i]);
    }
    CHECK(environ[variables] == NULL);
    free(copy);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(sigpipe_with_the_default_disposition) {
    struct sigaction now;
    CHECK(sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
    backend *b = backend_start();
    reply unread = {.kind = REPLY_CLOSE_UNREAD};
    backend_rule(b, NULL, unread);
    char query[16001];
    memset(query, 'a', sizeof query - 1);
    query[sizeof query - 1] = '\0';
    static const char *const lanes[] = {"hyper"};
    for (size_t lane = 0; lane < sizeof lanes / sizeof lanes[0]; lane++) {
        alta_auth_engine *engine = engine_with(backend_url(b), "http.lane", lanes[lane], NULL);
        for (int i = 0; i < 100; i++) {
            alta_auth_request request = ask("s", query);
            alta_auth_decision d = check_ok(engine, &request);
            CHECK_EQ(d.origin, ALTA_AUTH_ORIGIN_DEFAULT);
            CHECK(d.cause == ALTA_AUTH_CAUSE_RESET || d.cause == ALTA_AUTH_CAUSE_CONNECT);
        }
        alta_auth_engine_free(engine);
    }
    backend_stop(b);
}

static volatile sig_atomic_t alarms, alarms_on_library_threads;

static void on_alarm(int signal_number) {
    (void)signal_number;
    char name[16] = "";
    int saved = errno;
    alarms++;
    int fd = open("/proc/thread-self/comm", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, name, sizeof name - 1) > 5 && memcmp(name, "alta-", 5) == 0) {
            alarms_on_library_threads++;
        }
        close(fd);
    }
    errno = saved;
}

CASE(signal_storm) {
    backend *b = backend_start();
    reply late = {.status = 200, .delay_ms = 10};
    backend_rule(b, "t", late);
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm; /* without SA_RESTART: every wait of this thread is interrupted */
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int i = 0; i < 100; i++) {
        alta_auth_request request = ask("s", "token=t");
        CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
        CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
        alta_auth_completion done;
        reap_all(queue, &done, 1);
        CHECK_EQ(done.decision.verdict, ALTA_AUTH_ALLOW);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(alarms > 0);
    CHECK_EQ(alarms_on_library_threads, 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* ---- descriptors ---- */

CASE(every_descriptor_is_close_on_exec) {
    int inherited[256], descriptors[256];
    size_t before = open_descriptors(inherited, 256);
    backend *b = backend_start(); /* whose descriptors are close-on-exec, too */
    backend_rule(b, "held", held);
    alta_auth_engine *engine = engine_with(backend_url(b), "threads.io", "2", NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request idle = ask("s", "token=123"), in_flight = ask("s", "token=held");
    check_ok(engine, &idle);
    CHECK_EQ(alta_auth_queue_submit(queue, &in_flight, NULL, NULL), ALTA_AUTH_OK);
    CHECK(backend_wait_requests(b, "held", 1));
    size_t n = open_descriptors(descriptors, 256);
    CHECK(n > before);
    for (size_t i = 0; i < n; i++) {
        bool was_there = false;
        for (size_t k = 0; k < before; k++) {
            was_there = was_there || inherited[k] == descriptors[i];
        }
        int flags = fcntl(descriptors[i], F_GETFD);
        if (!was_there && flags >= 0 && !(flags & FD_CLOEXEC)) {
            char path[64], target[128] = "";
            snprintf(path, sizeof path, "/proc/self/fd/%d", descriptors[i]);
            ssize_t length = readlink(path, target, sizeof target - 1);
            fail(__FILE__, __LINE__, "descriptor %d (%s) is not close-on-exec", descriptors[i],
                 length > 0 ? target : "?");
        }
    }
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(no_descriptor_left_is_err_system) {
    backend *b = backend_start();
    struct rlimit limit, none;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    none = limit;
    none.rlim_cur = 3; /* those that are open stay open */
    alta_auth_config *config = config_with(backend_url(b), NULL);
    size_t descriptors = open_descriptors(NULL, 0), threads = count_threads("");
    alta_auth_engine *engine = NULL;
    char error[256] = "";
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    int32_t status = alta_auth_engine_new(config, &engine, error, sizeof error);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_EQ(status, ALTA_AUTH_ERR_SYSTEM);
    CHECK(engine == NULL && *error != '\0');
    CHECK_EQ(open_descriptors(NULL, 0), descriptors);
    expected_threads as_before = {"", threads};
    CHECK(eventually(thread_count_is, &as_before));
    engine = engine_from(config); /* not consumed */
    alta_auth_queue *queue = NULL;
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    status = alta_auth_queue_new(engine, &queue);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_EQ(status, ALTA_AUTH_ERR_SYSTEM);
    CHECK(queue == NULL);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

/* Root may have any number of threads: another user's are refused. Threads that run elsewhere count for their user, too. */
CASE(no_thread_left_is_err_system) {
    backend *b = backend_start();
    CHECK(geteuid() != 0 || setresuid(64999, 64999, 64999) == 0);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0); /* or /proc/self stays root's */
    struct rlimit limit, none;
    CHECK(getrlimit(RLIMIT_NPROC, &limit) == 0);
    none = limit;
    none.rlim_cur = 1;
    alta_auth_config *config = config_with(backend_url(b), NULL);
    size_t descriptors = open_descriptors(NULL, 0), threads = count_threads("");
    alta_auth_engine *engine = NULL;
    char error[256] = "";
    CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
    int32_t status = alta_auth_engine_new(config, &engine, error, sizeof error);
    CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0);
    CHECK_EQ(status, ALTA_AUTH_ERR_SYSTEM);
    CHECK(engine == NULL && strstr(error, "thread") != NULL);
    CHECK_EQ(open_descriptors(NULL, 0), descriptors);
    expected_threads as_before = {"", threads};
    CHECK(eventually(thread_count_is, &as_before));
    engine = engine_from(config);
    alta_auth_request request = ask("s", "token=123");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

static size_t resident_pages(void) {
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    CHECK(file != NULL && fscanf(file, "%lu %lu", &size, &resident) == 2);
    fclose(file);
    return resident;
}

CASE(a_thousand_engines_leak_nothing) {
    backend *b = backend_start();
    size_t engines = parameter("CONTRACT_ENGINES", 1000), warm = engines / 5;
    size_t descriptors = 0, threads = count_threads(""), pages = 0;
    for (size_t i = 0; i < engines; i++) {
        if (i == warm) {
            CHECK(backend_wait_closed(b));
            descriptors = open_descriptors(NULL, 0);
            pages = resident_pages();
        }
        alta_auth_engine *engine = engine_with(backend_url(b), NULL);
        alta_auth_queue *queue = queue_on(engine);
        alta_auth_request request = ask("s", "token=123");
        CHECK_EQ(alta_auth_queue_submit(queue, &request, NULL, NULL), ALTA_AUTH_OK);
        alta_auth_completion done;
        reap_all(queue, &done, 1);
        CHECK_EQ(done.decision.verdict, ALTA_AUTH_ALLOW);
        if (i % 2) {
            alta_auth_queue_free(queue);
            alta_auth_engine_free(engine);
        } else {
            alta_auth_engine_free(engine);
            alta_auth_queue_free(queue);
        }
    }
    expected_threads as_before = {"", threads};
    CHECK(eventually(thread_count_is, &as_before));
    CHECK(backend_wait_closed(b));
    CHECK_EQ(open_descriptors(NULL, 0), descriptors);
    if (!*run_under()) { /* the tools keep freed memory; there the leak check itself answers */
        size_t grown = resident_pages() > pages ? resident_pages() - pages : 0;
        if (grown > (engines - warm) / 2 + 256) {
            fail(__FILE__, __LINE__, "%zu pages more after %zu engines", grown, engines - warm);
        }
    }
    backend_stop(b);
}

/* ---- processes that are ending ---- */

static alta_auth_engine *freed_at_exit;
static sink told_at_exit;
static backend *backend_at_exit;

static void free_at_exit(void) {
    alta_auth_engine_free(freed_at_exit);
    sink_wait(&told_at_exit, 2);
    _exit(count_threads("alta-") == 0 ? 0 : 9);
}

/* A static object of C++ is destroyed there, too. */
static void leave_with_an_engine(void *context) {
    (void)context;
    backend_at_exit = backend_start();
    backend_rule(backend_at_exit, "held", held);
    freed_at_exit = engine_with(backend_url(backend_at_exit), NULL);
    sink_init(&told_at_exit);
    static seen places[2];
    alta_auth_request requests[] = {ask("first", "token=123"), ask("second", "token=held")};
    for (size_t i = 0; i < 2; i++) {
        seen_init(&places[i], &told_at_exit);
        uint64_t *ticket = &places[i].ticket;
        CHECK_EQ(alta_auth_submit(freed_at_exit, &requests[i], on_decision, &places[i], ticket), ALTA_AUTH_OK);
        pass_ms(20);
    }
    CHECK_EQ(atexit(free_at_exit), 0);
    exit(8);
}

CASE(engine_is_freed_at_exit) {
    in_child(leave_with_an_engine, NULL);
}
