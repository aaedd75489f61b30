#define _GNU_SOURCE
#include "live.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

void viewer_init(viewer *v) {
    memset(v, 0, sizeof *v);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void viewer_destroy(viewer *v) {
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->lock);
}

static alta_auth_str keep(char *to, size_t size, alta_auth_str text) {
    CHECK(text.len < size);
    if (text.len > 0) {
        memcpy(to, text.ptr, text.len);
    }
    to[text.len] = '\0';
    alta_auth_str kept = {to, text.len};
    return kept;
}

static bool same_text(alta_auth_str a, alta_auth_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* "A change is another verdict, user_id, location, max_sessions or ALTA_AUTH_UNIQUE." */
static bool differ(const alta_auth_decision *a, const alta_auth_decision *b) {
    return a->verdict != b->verdict || a->max_sessions != b->max_sessions ||
           ((a->flags ^ b->flags) & ALTA_AUTH_UNIQUE) != 0 || !same_text(a->user_id, b->user_id) ||
           !same_text(a->location, b->location);
}

void on_told(void *user_data, const alta_auth_decision *decision) {
    viewer *v = user_data;
    CHECK(decision != NULL);
    CHECK(decision->struct_size >= sizeof(alta_auth_decision));
    CHECK(!atomic_exchange(&v->inside, true)); /* one call at a time */
    pthread_mutex_lock(&v->lock);
    CHECK_EQ(v->ticket, decision->ticket);
    CHECK(!v->over);
    CHECK(v->count < MOST_TOLD);
    CHECK(decision->verdict == ALTA_AUTH_ALLOW || decision->verdict == ALTA_AUTH_DENY);
    CHECK(!text_has(decision->detail, "token=")); /* "never contains the query" */
    CHECK(!text_has(decision->detail, "\n"));
    alta_auth_decision *kept = &v->told[v->count];
    *kept = *decision;
    kept->user_id = keep(v->user_ids[v->count], sizeof v->user_ids[0], decision->user_id);
    kept->location = keep(v->locations[v->count], sizeof v->locations[0], decision->location);
    if (v->count > 0 && !v->lax) {
        CHECK_EQ(decision->latency_ns, 0);
        CHECK((decision->flags & ALTA_AUTH_LAST) || differ(kept, kept - 1));
    }
    v->over = (decision->flags & ALTA_AUTH_LAST) != 0;
    v->count++;
    v->by = pthread_self();
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    if (v->during) {
        v->during(v, decision);
    }
    atomic_store(&v->inside, false);
}

void open_watch(alta_auth_engine *engine, const alta_auth_request *request, viewer *v) {
    CHECK_EQ(alta_auth_watch(engine, request, on_told, v, &v->ticket), ALTA_AUTH_OK);
    CHECK(v->ticket != 0);
}

void open_queue_watch(alta_auth_queue *queue, const alta_auth_request *request, viewer *v) {
    CHECK_EQ(alta_auth_queue_watch(queue, request, v, &v->ticket), ALTA_AUTH_OK);
    CHECK(v->ticket != 0);
}

size_t told_count(viewer *v) {
    pthread_mutex_lock(&v->lock);
    size_t n = v->count;
    pthread_mutex_unlock(&v->lock);
    return n;
}

/* Waits for `n`, or for the end with n = 0. */
static alta_auth_decision wait_told(viewer *v, size_t n) {
    uint64_t at = now_ns() + (uint64_t)deadline_ms() * 1000000U;
    struct timespec until = {(time_t)(at / 1000000000U), (long)(at % 1000000000U)};
    int error = 0;
    pthread_mutex_lock(&v->lock);
    while ((n ? v->count < n : !v->over || v->count == 0) && error == 0) {
        error = pthread_cond_timedwait(&v->changed, &v->lock, &until);
    }
    if (error) {
        fail(__FILE__, __LINE__, "%zu told, not %zu by the deadline (0: the last)", v->count, n);
    }
    alta_auth_decision decision = v->told[(n ? n : v->count) - 1];
    pthread_mutex_unlock(&v->lock);
    return decision;
}

alta_auth_decision told(viewer *v, size_t n) {
    return wait_told(v, n);
}

alta_auth_decision told_last(viewer *v) {
    alta_auth_decision decision = wait_told(v, 0);
    CHECK(decision.flags & ALTA_AUTH_LAST);
    return decision;
}

size_t reap_told(alta_auth_queue *queue) {
    alta_auth_completion done[16];
    alta_auth_completion blank = ALTA_AUTH_COMPLETION_INIT;
    size_t all = 0;
    for (size_t n = 1; n > 0; all += n) {
        done[0] = blank;
        n = alta_auth_queue_reap(queue, done, 16);
        for (size_t i = 0; i < n; i++) {
            on_told(done[i].user_data, &done[i].decision);
        }
    }
    return all;
}

alta_auth_decision told_by(alta_auth_queue *queue, viewer *v, size_t n) {
    while (told_count(v) < n) {
        if (!readable(alta_auth_queue_fd(queue), deadline_ms())) {
            fail(__FILE__, __LINE__, "%zu of %zu told by the deadline", told_count(v), n);
        }
        reap_told(queue);
    }
    return told(v, n);
}

int32_t cancel_watch(alta_auth_engine *engine, viewer *v) {
    int32_t status = alta_auth_cancel(engine, v->ticket);
    if (status == ALTA_AUTH_OK) {
        pthread_mutex_lock(&v->lock);
        CHECK(!v->over);
        v->over = true;
        pthread_mutex_unlock(&v->lock);
    }
    return status;
}

static void on_settled(void *user_data, const alta_auth_decision *decision) {
    CHECK(decision != NULL);
    gate_open(user_data);
}

void cancel_ok(alta_auth_engine *engine, viewer *v) {
    gate *settled = gate_new();
    alta_auth_request request = ask("settles", "token=settles");
    CHECK_EQ(alta_auth_submit(engine, &request, on_settled, settled, NULL), ALTA_AUTH_OK);
    CHECK(gate_wait(settled));
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK); /* it is out of the callback */
    gate_free(settled);
    CHECK_EQ(cancel_watch(engine, v), ALTA_AUTH_OK);
}

void end_watch(alta_auth_engine *engine, viewer *v) {
    int32_t status = cancel_watch(engine, v);
    if (status != ALTA_AUTH_OK) {
        CHECK_EQ(status, ALTA_AUTH_ERR_NOT_FOUND);
        told_last(v);
    }
}

void check_told(const alta_auth_decision *d, int32_t verdict, int32_t origin, int32_t cause, uint32_t flags) {
    if (d->verdict != verdict || d->origin != origin || d->cause != cause || d->flags != flags) {
        fail(__FILE__, __LINE__, "told verdict %d origin %d cause %d flags %u, expected %d %d %d %u", (int)d->verdict,
             (int)d->origin, (int)d->cause, (unsigned)d->flags, (int)verdict, (int)origin, (int)cause, (unsigned)flags);
    }
}

void asked_again(backend *b, const char *token, size_t times) {
    CHECK(backend_wait_requests(b, token, backend_requests(b, token) + times));
}
