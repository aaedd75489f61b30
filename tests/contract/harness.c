#define _GNU_SOURCE
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CASES = 512, CASE_LIMIT_S = 120, CHILD_LIMIT_S = 60 };

#define NOT_TESTED "NOT TESTED "

static struct {
    const char *name;
    void (*run)(void);
} cases[MAX_CASES];
static size_t case_count;
static int report_fd = -1;

void register_case(const char *name, void (*run)(void)) {
    if (case_count == MAX_CASES) {
        abort();
    }
    cases[case_count].name = name;
    cases[case_count].run = run;
    case_count++;
}

/* ---- checks ---- */

void fail(const char *file, int line, const char *format, ...) {
    char text[2048];
    const char *slash = strrchr(file, '/');
    int used = snprintf(text, sizeof text, "%s:%d ", slash ? slash + 1 : file, line);
    size_t room = sizeof text - (size_t)used;
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(text + used, room, format, arguments);
    va_end(arguments);
    size_t length = (size_t)used + ((size_t)more < room ? (size_t)more : room - 1);
    ssize_t written = write(report_fd < 0 ? STDERR_FILENO : report_fd, text, length);
    _exit(written < 0 ? 3 : 1);
}

void not_tested(const char *why) {
    char text[256];
    int length = snprintf(text, sizeof text, NOT_TESTED "%s\n", why);
    CHECK(length > 0 && (size_t)length < sizeof text);
    CHECK_EQ(write(report_fd < 0 ? STDERR_FILENO : report_fd, text, (size_t)length), length);
}

void check_equal(const char *file, int line, const char *expression, long long left, long long right) {
    if (left != right) {
        fail(file, line, "%s (%lld, %lld)", expression, left, right);
    }
}

void check_text(const char *file, int line, const char *expression, const char *left, const char *right) {
    if (!left || !right || strcmp(left, right) != 0) {
        fail(file, line, "%s (\"%s\", \"%s\")", expression, left ? left : "(null)", right ? right : "(null)");
    }
}

/* ---- parameters and time ---- */

size_t parameter(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text && *text ? (size_t)strtoul(text, NULL, 10) : otherwise;
}

const char *run_under(void) {
    const char *tool = getenv("CONTRACT_UNDER");
    return tool ? tool : "";
}

int scaled_ms(int ms) {
    return ms * (int)parameter("CONTRACT_SLOW", 1);
}

int deadline_ms(void) {
    return scaled_ms(20000);
}

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static struct timespec after_ms(int ms) {
    uint64_t at = now_ns() + (uint64_t)ms * 1000000U;
    struct timespec t = {(time_t)(at / 1000000000U), (long)(at % 1000000000U)};
    return t;
}

void pass_ms(int ms) {
    struct timespec until = after_ms(ms);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

bool eventually(bool (*holds)(void *), void *context) {
    uint64_t end = now_ns() + (uint64_t)deadline_ms() * 1000000U;
    for (;;) {
        if (holds(context)) {
            return true;
        }
        if (now_ns() > end) {
            return false;
        }
        pass_ms(2);
    }
}

/* ---- gate ---- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open;
};

gate *gate_new(void) {
    gate *g = calloc(1, sizeof *g);
    CHECK(g != NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return g;
}

void gate_open(gate *g) {
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

bool gate_wait(gate *g) {
    struct timespec until = after_ms(deadline_ms());
    pthread_mutex_lock(&g->lock);
    int error = 0;
    while (!g->open && error == 0) {
        error = pthread_cond_timedwait(&g->changed, &g->lock, &until);
    }
    bool open = g->open;
    pthread_mutex_unlock(&g->lock);
    return open;
}

bool gate_wait_while(gate *g, atomic_size_t *moves) {
    for (size_t before = SIZE_MAX, now; (now = atomic_load(moves)) != before; before = now) {
        if (gate_wait(g)) {
            return true;
        }
    }
    return false;
}

void gate_free(gate *g) {
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

/* ---- processes ---- */

void in_child(void (*body)(void *), void *context) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm((unsigned)scaled_ms(CHILD_LIMIT_S)); /* a child that hangs dies of SIGALRM */
        body(context);
        _exit(0); /* destructors and exit handlers belong to the parent */
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        CHECK(errno == EINTR);
    }
    if (WIFSIGNALED(status)) {
        fail(__FILE__, __LINE__, "the forked child died of signal %d", WTERMSIG(status));
    }
    if (WEXITSTATUS(status) != 0) {
        /* Its failed check has already been reported. */
        _exit(WEXITSTATUS(status));
    }
}

static void run_here(size_t index) {
    signal(SIGPIPE, SIG_DFL); /* whatever the test runner's parent chose, the library must survive the default */
    cases[index].run();
}

static int case_limit_ms(void) {
    return scaled_ms((int)parameter("CONTRACT_LIMIT", CASE_LIMIT_S) * 1000);
}

/* Reads the reports of a case until its last process has closed the pipe; false when the time is over. */
static bool collect(int from, char *text, size_t size) {
    uint64_t end = now_ns() + (uint64_t)case_limit_ms() * 1000000U;
    size_t used = 0;
    for (;;) {
        uint64_t now = now_ns();
        struct pollfd p = {from, POLLIN, 0};
        int ready = now < end ? poll(&p, 1, (int)((end - now) / 1000000U) + 1) : 0;
        if (ready == 0) {
            return false;
        }
        char chunk[512];
        ssize_t n = ready > 0 ? read(from, chunk, sizeof chunk) : -1;
        if (n == 0) {
            return true;
        }
        for (ssize_t i = 0; i < n && used + 1 < size; i++) {
            text[used++] = chunk[i] >= ' ' && chunk[i] <= '~' ? chunk[i] : ' ';
        }
        text[used] = '\0';
    }
}

static void show_output(int captured, off_t length) {
    char chunk[4096];
    for (off_t at = 0; at < length;) {
        ssize_t n = pread(captured, chunk, sizeof chunk, at);
        if (n <= 0 || fwrite(chunk, 1, (size_t)n, stdout) != (size_t)n) {
            break;
        }
        at += n;
    }
    fputs("\n", stdout);
}

enum outcome { PASSED, UNTESTED, FAILED };

static enum outcome run_case(size_t index) {
    int reports[2];
    int captured = memfd_create("output", MFD_CLOEXEC);
    if (captured < 0 || pipe2(reports, O_CLOEXEC) != 0) {
        perror("contract");
        exit(2);
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        perror("contract");
        exit(2);
    }
    if (pid == 0) {
        close(reports[0]);
        report_fd = reports[1];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(captured, STDOUT_FILENO);
        dup2(captured, STDERR_FILENO);
        run_here(index);
        exit(0);
    }
    close(reports[1]);
    char text[4096] = "";
    bool in_time = collect(reports[0], text, sizeof text);
    if (!in_time) {
        kill(pid, SIGKILL);
        snprintf(text, sizeof text, "did not end in %d s", case_limit_ms() / 1000);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    off_t length = lseek(captured, 0, SEEK_END);
    bool ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (ended_well && length == 0 && strncmp(text, NOT_TESTED, strlen(NOT_TESTED)) == 0) {
        printf(NOT_TESTED "%s %s\n", cases[index].name, text + strlen(NOT_TESTED));
        fflush(stdout);
        close(reports[0]);
        close(captured);
        return UNTESTED;
    }
    if (!*text && WIFSIGNALED(status)) {
        snprintf(text, sizeof text, "died of signal %d", WTERMSIG(status));
    } else if (!*text && WEXITSTATUS(status) != 0) {
        snprintf(text, sizeof text, "exited with status %d", WEXITSTATUS(status));
    } else if (!*text && length > 0) {
        snprintf(text, sizeof text, "wrote %ld bytes to stdout or stderr", (long)length);
    }
    printf(*text ? "FAIL %s %s\n" : "ok %s\n", cases[index].name, text);
    if (*text && length > 0) {
        show_output(captured, length);
    }
    fflush(stdout);
    close(reports[0]);
    close(captured);
    return *text ? FAILED : PASSED;
}

static int usage(void) {
    fputs("usage: contract [--list | --here NAME | NAME...]\n"
          "  --here runs the case in this process, for a debugger\n",
          stderr);
    return 2;
}

static size_t find_case(const char *name) {
    size_t i = 0;
    while (i < case_count && strcmp(cases[i].name, name) != 0) {
        i++;
    }
    if (i == case_count) {
        fprintf(stderr, "contract: no case is called %s\n", name);
        exit(2);
    }
    return i;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < case_count; i++) {
            puts(cases[i].name);
        }
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "--here") == 0) {
        if (argc != 3) {
            return usage();
        }
        run_here(find_case(argv[2]));
        printf("ok %s\n", argv[2]);
        return 0;
    }
    if (argc > 1 && argv[1][0] == '-') {
        return usage();
    }
    size_t count[FAILED + 1] = {0};
    size_t ran = argc > 1 ? (size_t)(argc - 1) : case_count;
    for (size_t i = 0; i < ran; i++) {
        count[run_case(argc > 1 ? find_case(argv[i + 1]) : i)]++;
    }
    printf("%zu passed, %zu not tested, %zu failed\n", count[PASSED], count[UNTESTED], count[FAILED]);
    return count[FAILED] ? 1 : 0;
}
