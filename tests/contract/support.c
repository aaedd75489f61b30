#define _GNU_SOURCE
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

void set_key(alta_auth_config *config, const char *key, const char *value) {
    char error[512] = "";
    int32_t status = alta_auth_config_set(config, key, value, error, sizeof error);
    if (status != ALTA_AUTH_OK) {
        fail(__FILE__, __LINE__, "config_set(%s, %s): %d %s", key, value, (int)status, error);
    }
}

/* For keys whose feature a library may not have: then there is nothing to switch off or to bound. */
static void set_known_key(alta_auth_config *config, const char *key, const char *value) {
    char error[512] = "";
    if (alta_auth_config_set(config, key, value, error, sizeof error) != ALTA_AUTH_OK
        && strncmp(error, "unknown key", strlen("unknown key")) != 0) {
        fail(__FILE__, __LINE__, "config_set(%s, %s): %s", key, value, error);
    }
}

static alta_auth_config *config_from(const char *url, va_list pairs) {
    alta_auth_config *config = alta_auth_config_new();
    CHECK(config != NULL);
    set_key(config, "backend.url", url);
    set_key(config, "default_action", "deny");
    set_key(config, "timeout", "60s");
    set_key(config, "connect_timeout", "60s");
    set_known_key(config, "breaker.failures", "0");
    set_key(config, "log.level", "off");
    set_key(config, "ttl.jitter", "0");
    set_known_key(config, "memory.max_decisions", "10000");
    for (const char *key = va_arg(pairs, const char *); key; key = va_arg(pairs, const char *)) {
        set_key(config, key, va_arg(pairs, const char *));
    }
    return config;
}

alta_auth_config *config_with(const char *url, ...) {
    va_list pairs;
    va_start(pairs, url);
    alta_auth_config *config = config_from(url, pairs);
    va_end(pairs);
    return config;
}

alta_auth_engine *engine_from(alta_auth_config *config) {
    alta_auth_engine *engine = NULL;
    char error[512] = "";
    int32_t status = alta_auth_engine_new(config, &engine, error, sizeof error);
    if (status != ALTA_AUTH_OK || !engine) {
        fail(__FILE__, __LINE__, "engine_new: %d %s", (int)status, error);
    }
    return engine;
}

alta_auth_engine *engine_with(const char *url, ...) {
    va_list pairs;
    va_start(pairs, url);
    alta_auth_config *config = config_from(url, pairs);
    va_end(pairs);
    return engine_from(config);
}

alta_auth_queue *queue_on(alta_auth_engine *engine) {
    alta_auth_queue *queue = NULL;
    CHECK_EQ(alta_auth_queue_new(engine, &queue), ALTA_AUTH_OK);
    CHECK(queue != NULL);
    return queue;
}

alta_auth_request ask(const char *session, const char *query) {
    alta_auth_request r = ALTA_AUTH_REQUEST_INIT;
    r.session_id = alta_auth_str_of(session);
    r.ip = alta_auth_str_of("192.0.2.1");
    r.path = alta_auth_str_of("/live/index.m3u8");
    r.query = alta_auth_str_of(query);
    return r;
}

/* ---- callbacks ---- */

void sink_init(sink *s) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->delivered = 0;
}

void sink_destroy(sink *s) {
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
}

size_t sink_count(sink *s) {
    pthread_mutex_lock(&s->lock);
    size_t n = s->delivered;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void sink_wait(sink *s, size_t n) {
    uint64_t at = now_ns() + (uint64_t)deadline_ms() * 1000000U;
    struct timespec until = {(time_t)(at / 1000000000U), (long)(at % 1000000000U)};
    pthread_mutex_lock(&s->lock);
    int error = 0;
    while (s->delivered < n && error == 0) {
        error = pthread_cond_timedwait(&s->changed, &s->lock, &until);
    }
    size_t delivered = s->delivered;
    pthread_mutex_unlock(&s->lock);
    if (delivered < n) {
        fail(__FILE__, __LINE__, "%zu of %zu deliveries by the deadline", delivered, n);
    }
}

void seen_init(seen *s, sink *to) {
    memset(s, 0, sizeof *s);
    s->to = to;
}

static void keep(char *to, size_t size, alta_auth_str *text) {
    CHECK(text->len < size);
    if (text->len > 0) {
        memcpy(to, text->ptr, text->len);
    }
    to[text->len] = '\0';
    text->ptr = to; /* the library's text dies with the callback */
}

void on_decision(void *user_data, const alta_auth_decision *decision) {
    seen *s = user_data;
    CHECK(decision != NULL);
    CHECK(decision->struct_size >= sizeof(alta_auth_decision));
    CHECK_EQ(s->ticket, decision->ticket);
    on_batched(user_data, decision);
}

void on_batched(void *user_data, const alta_auth_decision *decision) {
    seen *s = user_data;
    CHECK(decision->ticket != 0);
    s->decision = *decision;
    keep(s->user_id, sizeof s->user_id, &s->decision.user_id);
    keep(s->location, sizeof s->location, &s->decision.location);
    keep(s->detail, sizeof s->detail, &s->decision.detail);
    s->by = pthread_self();
    prctl(PR_GET_NAME, s->thread);
    pthread_mutex_lock(&s->to->lock);
    s->times++;
    CHECK_EQ(s->times, 1);
    s->to->delivered++;
    pthread_cond_broadcast(&s->to->changed);
    pthread_mutex_unlock(&s->to->lock);
}

void submit_and_wait(alta_auth_engine *engine, const alta_auth_request *request, seen *s) {
    size_t before = sink_count(s->to);
    CHECK_EQ(alta_auth_submit(engine, request, on_decision, s, &s->ticket), ALTA_AUTH_OK);
    sink_wait(s->to, before + 1);
    CHECK_EQ(s->times, 1);
}

alta_auth_decision check_ok(alta_auth_engine *engine, const alta_auth_request *request) {
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    CHECK_EQ(alta_auth_check(engine, request, &decision), ALTA_AUTH_OK);
    return decision;
}

/* ---- queues ---- */

bool readable(int fd, int timeout_ms) {
    uint64_t end = now_ns() + (uint64_t)timeout_ms * 1000000U;
    for (;;) {
        uint64_t now = now_ns();
        struct pollfd p = {fd, POLLIN, 0};
        int ready = poll(&p, 1, now < end ? (int)((end - now) / 1000000U) : 0);
        if (ready >= 0) {
            return ready > 0 && (p.revents & POLLIN) != 0;
        }
        CHECK(errno == EINTR);
    }
}

void reap_all(alta_auth_queue *queue, alta_auth_completion *out, size_t n) {
    alta_auth_completion blank = ALTA_AUTH_COMPLETION_INIT;
    size_t got = 0;
    while (got < n) {
        if (!readable(alta_auth_queue_fd(queue), deadline_ms())) {
            fail(__FILE__, __LINE__, "%zu of %zu completions by the deadline", got, n);
        }
        out[got] = blank;
        got += alta_auth_queue_reap(queue, out + got, n - got);
    }
}

/* ---- statistics ---- */

alta_auth_stats stats_of(const alta_auth_engine *engine) {
    alta_auth_stats s = ALTA_AUTH_STATS_INIT;
    CHECK_EQ(alta_auth_stats_read(engine, &s), ALTA_AUTH_OK);
    CHECK_EQ(s.submitted, s.completed + s.cancelled + s.pending);
    return s;
}

void check_sums(const alta_auth_stats *s) {
    uint64_t causes = 0;
    for (size_t i = 0; i < 16; i++) {
        causes += s->causes[i];
    }
    CHECK_EQ(s->submitted, s->completed + s->cancelled + s->pending);
    CHECK_EQ(s->allowed + s->denied, s->completed);
    CHECK_EQ(s->from_backend + s->from_memory + s->from_last_known + s->from_default, s->completed);
    CHECK_EQ(causes, s->completed);
}

/* ---- text ---- */

bool text_is(alta_auth_str text, const char *expected) {
    return text.len == strlen(expected) && (text.len == 0 || memcmp(text.ptr, expected, text.len) == 0);
}

bool text_has(alta_auth_str text, const char *part) {
    return text.len > 0 && memmem(text.ptr, text.len, part, strlen(part)) != NULL;
}

bool is_utf8(const char *text) {
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        int more = *at < 0x80 ? 0 : (*at & 0xE0) == 0xC0 ? 1 : (*at & 0xF0) == 0xE0 ? 2 : (*at & 0xF8) == 0xF0 ? 3 : -1;
        if (more < 0) {
            return false;
        }
        for (at++; more > 0; more--, at++) {
            if ((*at & 0xC0) != 0x80) {
                return false;
            }
        }
    }
    return true;
}

/* ---- /proc ---- */

size_t open_descriptors(int *out, size_t max) {
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory)) {
            continue;
        }
        if (out) {
            CHECK(n < max);
            out[n] = atoi(entry->d_name);
        }
        n++;
    }
    closedir(directory);
    return n;
}

/* The threads with such a name; of those, the ones in this state: 0 for any. */
static size_t threads_in(const char *name_prefix, char state) {
    DIR *directory = opendir("/proc/self/task");
    CHECK(directory != NULL);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char path[300];
        char name[32] = "", is = 0;
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", entry->d_name);
        FILE *file = fopen(path, "re");
        bool known = file && fscanf(file, "%*d (%31[^)]) %c", name, &is) == 2;
        if (file) {
            fclose(file);
        }
        n += known && strncmp(name, name_prefix, strlen(name_prefix)) == 0 && (!state || is == state);
    }
    closedir(directory);
    return n;
}

size_t count_threads(const char *name_prefix) {
    return threads_in(name_prefix, 0);
}

bool thread_count_is(void *expected) {
    const expected_threads *e = expected;
    return count_threads(e->prefix) == e->count;
}

bool threads_sleep(void *name_prefix) {
    return threads_in(name_prefix, 'S') == count_threads(name_prefix);
}
