/*
 * What most cases need of the library: an engine with a test's settings, a request, a callback that records, a
 * queue read with a deadline, and the view of /proc that a host's administrator has.
 */
#ifndef CONTRACT_SUPPORT_H
#define CONTRACT_SUPPORT_H

#include "backend.h"
#include "harness.h"

#include <alta_auth.h>

#include <pthread.h>

/*
 * A configuration: `url`, then pairs of key and value, then NULL. Underneath lie the settings of a test that
 * wants no surprise: default_action deny, 60 s of time, no breaker, no log, no jitter, a small memory.
 */
alta_auth_config *config_with(const char *url, ...) __attribute__((sentinel));
alta_auth_engine *engine_with(const char *url, ...) __attribute__((sentinel));
alta_auth_engine *engine_from(alta_auth_config *);
alta_auth_queue *queue_on(alta_auth_engine *);
/* Sets one key or fails the case. */
void set_key(alta_auth_config *, const char *key, const char *value);

/* A request for /live/index.m3u8 from 192.0.2.1; the texts must outlive it. */
alta_auth_request ask(const char *session, const char *query);

/* One check's place to be delivered to. Initialise with seen_init. */
typedef struct sink sink;
typedef struct seen {
    sink *to;
    size_t times;
    uint64_t ticket; /* the callback checks that submit had written it */
    alta_auth_decision decision;
    char user_id[300];
    char location[2100];
    char detail[1024];
    char thread[16];
    pthread_t by;
} seen;

struct sink {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t delivered;
};
void sink_init(sink *);
void sink_destroy(sink *);
size_t sink_count(sink *);
/* Until `n` deliveries in all have been made; fails the case at the deadline. */
void sink_wait(sink *, size_t n);
void seen_init(seen *, sink *);
void on_decision(void *user_data, const alta_auth_decision *);
/* The same for a batch, whose tickets are known from the decisions only. */
void on_batched(void *user_data, const alta_auth_decision *);

/* Submits in callback mode, waits for the delivery, and checks that there was one. */
void submit_and_wait(alta_auth_engine *, const alta_auth_request *, seen *);
/* alta_auth_check that must return OK. */
alta_auth_decision check_ok(alta_auth_engine *, const alta_auth_request *);

/* Polls the descriptor and reaps until `n` completions are in `out`; fails the case at the deadline. */
void reap_all(alta_auth_queue *, alta_auth_completion *out, size_t n);
bool readable(int fd, int timeout_ms);

alta_auth_stats stats_of(const alta_auth_engine *);
/* submitted = completed + cancelled + pending, and with nothing in delivery the sums by verdict, origin and cause. */
void check_sums(const alta_auth_stats *);

bool text_is(alta_auth_str, const char *);
bool text_has(alta_auth_str, const char *);
bool is_utf8(const char *);

/* The descriptors and threads of this process. */
size_t open_descriptors(int *out, size_t max);
size_t count_threads(const char *name_prefix); /* "" counts all */
typedef struct expected_threads {
    const char *prefix;
    size_t count;
} expected_threads;
bool thread_count_is(void *expected); /* for eventually() */
bool threads_sleep(void *name_prefix); /* the same: each waits in the system */

#endif
