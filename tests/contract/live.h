/*
 * A viewer whose connection stays open: what a watch tells it, and what must hold of every watch.
 *
 * on_told is the callback of every case. It fails the case when a delivery comes after the end (ALTA_AUTH_LAST, or a
 * cancel that was OK), when two come at the same time, or when one tells no change.
 */
#ifndef CONTRACT_LIVE_H
#define CONTRACT_LIVE_H

#include "support.h"

#include <stdatomic.h>

enum { MOST_TOLD = 64 };

typedef struct viewer viewer;
struct viewer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t ticket; /* for the watch to write; on_told checks that it had */
    size_t count;
    alta_auth_decision told[MOST_TOLD]; /* their texts are in the two arrays below, `detail` is gone */
    char user_ids[MOST_TOLD][64];
    char locations[MOST_TOLD][64];
    bool over;
    bool lax; /* changes may have become one, and that one none: (allow, deny, allow) before it was taken */
    atomic_bool inside;
    void (*during)(viewer *, const alta_auth_decision *); /* runs inside the callback */
    void *context;
    pthread_t by;
};

void viewer_init(viewer *);
void viewer_destroy(viewer *);
void on_told(void *viewer, const alta_auth_decision *);

/* Opens a watch in callback mode, or one in a queue, that must be accepted. */
void open_watch(alta_auth_engine *, const alta_auth_request *, viewer *);
void open_queue_watch(alta_auth_queue *, const alta_auth_request *, viewer *);

size_t told_count(viewer *);
/* Waits until `n` decisions in all have been told, and gives the n-th, from 1; fails the case at the deadline. */
alta_auth_decision told(viewer *, size_t n);
/* The same where the case has to reap. */
alta_auth_decision told_by(alta_auth_queue *, viewer *, size_t n);
/* Hands all that is in the queue to its viewers; returns how many completions there were. */
size_t reap_told(alta_auth_queue *);
/* alta_auth_cancel; if it is OK, nothing may be told any more. */
int32_t cancel_watch(alta_auth_engine *, viewer *);
/*
 * The same for a watch that is in no callback and must be open. With one callback thread, a check's callback comes
 * after the watch's has returned, which is what this waits for.
 */
void cancel_ok(alta_auth_engine *, viewer *);
/* The same where its callback may be running: then the last decision is waited for. */
void end_watch(alta_auth_engine *, viewer *);
/* Until the last decision has been told; gives it. */
alta_auth_decision told_last(viewer *);

void check_told(const alta_auth_decision *, int32_t verdict, int32_t origin, int32_t cause, uint32_t flags);

/* Until the backend has been asked `times` more; after 2, it has been asked under today's rule and was heard. */
void asked_again(backend *, const char *token, size_t times);

#endif
