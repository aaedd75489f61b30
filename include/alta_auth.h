/*
 * alta_auth.h: asks an HTTP billing backend "may this client watch?" for media servers.
 *
 * Generated from src/ffi; do not edit.
 *
 * A host makes a configuration, makes an engine of it, and hands over checks. Each check gets exactly one decision,
 * through a callback, a queue with a descriptor to poll, or by waiting for it.
 *
 * WHEN A CHECK IS NOT ACCEPTED
 *   ALTA_AUTH_ERR_INVALID: refuse the client; what it sent cannot be asked.
 *   ALTA_AUTH_ERR_FULL, _CLOSED, _SYSTEM: do what alta_auth_default_action() returns.
 *   Anything else is a defect of the host or of the library: refuse the client.
 *
 * EXACTLY ONCE
 *   A check is completed if and only if submit returned ALTA_AUTH_OK, and then exactly once: also on timeout, outage,
 *   revocation and shutdown. The one exception is a cancelled check: if cancel returned ALTA_AUTH_OK it is never
 *   delivered and its user_data is never used again. If cancel returned ALTA_AUTH_ERR_NOT_FOUND it was delivered, is
 *   being delivered or is about to be, and only the receiver may free user_data. If submit fails, nothing is kept and
 *   nothing is delivered. A completion is never delivered from inside the submit call.
 *   A watch (alta_auth_watch) is told its first decision and then each change, until it is cancelled or is told the last
 *   one, which has the flag ALTA_AUTH_LAST.
 *
 * THREADS
 *   Every function on an engine or a queue may be called from any thread, except the _free functions, which must be
 *   the last call on their object. A configuration belongs to one thread at a time. Callbacks run on threads of the
 *   library (alta-cb-N, or alta-io-N with threads.callback = 0), no lock held; they may submit, look up, cancel, revoke
 *   and read statistics of their engine; drain, shutdown, check and free of it give ALTA_AUTH_ERR_THREAD there.
 *   The same holds for the log callback and the thread hooks. None of them may throw or longjmp.
 *   A thread that is ending (in a destructor of pthread_key_create) may still call, but for alta_auth_engine_new, and for
 *   check and lookup, which may give ALTA_AUTH_ERR_THREAD: their texts may have no place there any more. Of a thread that
 *   submits, checks or looks up for the first time there, some memory (texts, buffers) is never freed.
 *   A thread must not be cancelled (pthread_cancel) inside a call: that ends the process. Where threads are cancelled,
 *   disable it around each call (pthread_setcancelstate).
 *   The library's threads block every signal. It installs no signal handler and never raises SIGPIPE.
 *
 * FORK
 *   In the child of a fork, calls on the parent's engine return ALTA_AUTH_ERR_FORKED, and freeing it is safe: it does
 *   nothing. The child's copies of the engine's descriptors and memory are its own until it ends or runs another program
 *   (every descriptor is close-on-exec), and until then a backend may not see that the parent has closed a connection.
 *   A host that forks its workers makes its engines in the workers.
 *
 * MEMORY
 *   Handles are opaque; every _free accepts NULL. Text passed in is copied before the call returns. Text in a decision
 *   is valid until the callback returns; after reap, until the next reap on that queue; after check or lookup, until
 *   the next check or lookup on the same thread. Pointers are checked, outputs are written on success only, and an
 *   error text whenever the status is not ALTA_AUTH_OK: NUL-terminated, and cut to its room.
 *
 * STRUCTS
 *   The caller sets struct_size (the _INIT macros do). Structs only ever grow at the end, so that a program works with
 *   every library of the same SONAME, older or newer: what the library does not know must be zero, otherwise
 *   ALTA_AUTH_ERR_UNSUPPORTED. The library never changes a caller's struct_size, writes what it knows and zeroes the
 *   rest. Of an array of structs, the first element's struct_size is the stride. Zero always means absent or default.
 *   A decision that a callback is given is the library's and has its size: a field that lies beyond decision->struct_size is
 *   absent and must not be read, nor the struct be copied as a whole. alta_auth.hpp sees to it.
 */
#ifndef ALTA_AUTH_H
#define ALTA_AUTH_H


#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALTA_AUTH_VERSION_MAJOR 0
#define ALTA_AUTH_VERSION_MINOR 1
#define ALTA_AUTH_VERSION_PATCH 0
/* major << 16 | minor << 8 | patch: compare with alta_auth_version_number() to tell header from library. */
#define ALTA_AUTH_VERSION_NUMBER \
    ((ALTA_AUTH_VERSION_MAJOR << 16) | (ALTA_AUTH_VERSION_MINOR << 8) | ALTA_AUTH_VERSION_PATCH)

/* The alta_auth_str of a string literal, for initialisers only. For assignments and arguments: alta_auth_str_of(). */
#define ALTA_AUTH_STR(literal) { "" literal, sizeof(literal) - 1 }

/* Initialisers: struct_size set, the rest zero. */
#define ALTA_AUTH_STR_INIT { NULL, 0 }
#define ALTA_AUTH_REQUEST_INIT \
    { sizeof(alta_auth_request), 0, ALTA_AUTH_STR_INIT, ALTA_AUTH_STR_INIT, ALTA_AUTH_STR_INIT, ALTA_AUTH_STR_INIT, \
      ALTA_AUTH_STR_INIT, ALTA_AUTH_STR_INIT, ALTA_AUTH_STR_INIT, 0, 0 }
#define ALTA_AUTH_DECISION_INIT \
    { sizeof(alta_auth_decision), 0, 0, 0, 0, 0, 0, 0, 0, 0, ALTA_AUTH_STR_INIT, ALTA_AUTH_STR_INIT, \
      ALTA_AUTH_STR_INIT }
#define ALTA_AUTH_COMPLETION_INIT { sizeof(alta_auth_completion), 0, NULL, ALTA_AUTH_DECISION_INIT }
#define ALTA_AUTH_STATS_INIT \
    { sizeof(alta_auth_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, { 0 } }


/**
 * Done, or accepted.
 */
#define ALTA_AUTH_OK 0

/**
 * Bad argument: NULL, bad struct_size, a field with CR, LF or NUL, a field over its limit. At submit: refuse the client.
 */
#define ALTA_AUTH_ERR_INVALID -1

/**
 * Unknown key, bad value, or a required key missing; the error text says which and why.
 */
#define ALTA_AUTH_ERR_CONFIG -2

/**
 * At capacity; nothing was retained, try again later.
 */
#define ALTA_AUTH_ERR_FULL -3

/**
 * The engine is shutting down or shut down.
 */
#define ALTA_AUTH_ERR_CLOSED -4

/**
 * The deadline of drain or shutdown passed with checks still pending (shutdown has completed them).
 */
#define ALTA_AUTH_ERR_TIMEOUT -5

/**
 * Lookup: nothing remembered. Cancel: unknown, or delivered, being delivered or about to be.
 */
#define ALTA_AUTH_ERR_NOT_FOUND -6

/**
 * Not allowed from inside a callback of the same engine, its log callback and its thread hooks among them: it would wait
 * for itself. Check and lookup may give it in a thread that is ending, where their texts may have no place any more.
 */
#define ALTA_AUTH_ERR_THREAD -7

/**
 * The engine belongs to the parent process.
 */
#define ALTA_AUTH_ERR_FORKED -8

/**
 * The caller's struct or flags are newer than the library.
 */
#define ALTA_AUTH_ERR_UNSUPPORTED -9

/**
 * The operating system refused a thread, a descriptor or memory.
 */
#define ALTA_AUTH_ERR_SYSTEM -10

/**
 * A defect of the library, caught.
 */
#define ALTA_AUTH_ERR_INTERNAL -11

/**
 * alta_auth_decision.verdict: do not serve the client.
 */
#define ALTA_AUTH_DENY 0

/**
 * alta_auth_decision.verdict: serve the client.
 */
#define ALTA_AUTH_ALLOW 1

/**
 * alta_auth_decision.origin: the backend, in answer to this check or to an equal one that was under way.
 */
#define ALTA_AUTH_ORIGIN_BACKEND 0

/**
 * The backend, earlier, and the time for which it allowed reuse has not ended.
 */
#define ALTA_AUTH_ORIGIN_MEMORY 1

/**
 * The backend, earlier; repeated because it cannot be asked now.
 */
#define ALTA_AUTH_ORIGIN_LAST_KNOWN 2

/**
 * Nobody: the operator's default action, or a denial for want of resources.
 */
#define ALTA_AUTH_ORIGIN_DEFAULT 3

/**
 * alta_auth_decision.cause: there was an answer.
 */
#define ALTA_AUTH_CAUSE_NONE 0

/**
 * The backend's name could not be resolved.
 */
#define ALTA_AUTH_CAUSE_RESOLVE 1

/**
 * No connection: refused, unreachable, or not established within connect_timeout.
 */
#define ALTA_AUTH_CAUSE_CONNECT 2

/**
 * The TLS handshake failed: certificate, name, version.
 */
#define ALTA_AUTH_CAUSE_TLS 3

/**
 * The budget ended before the answer.
 */
#define ALTA_AUTH_CAUSE_TIMEOUT 4

/**
 * Closed or reset before the first byte of an answer, or cut in a body that was needed.
 */
#define ALTA_AUTH_CAUSE_RESET 5

/**
 * The answer breaks the framing rules, or its header section is over the limit or cut short.
 */
#define ALTA_AUTH_CAUSE_PROTOCOL 6

/**
 * The backend answered with one of unavailable_statuses.
 */
#define ALTA_AUTH_CAUSE_STATUS 7

/**
 * The breaker is open: the backend was not asked.
 */
#define ALTA_AUTH_CAUSE_BREAKER_OPEN 8

/**
 * A bound of our own was reached: connections, descriptors, ports, which denies unless fail_open.overload is on; or that of
 * the client (limit.per_ip), which always denies.
 */
#define ALTA_AUTH_CAUSE_OVERLOAD 9

/**
 * The engine was shut down first.
 */
#define ALTA_AUTH_CAUSE_SHUTDOWN 10

/**
 * A defect of the library, caught. Denies, unless fail_open.overload is on.
 */
#define ALTA_AUTH_CAUSE_INTERNAL 11

/**
 * alta_auth_request.flags: do not answer from memory, ask the backend.
 */
#define ALTA_AUTH_FRESH 1

/**
 * alta_auth_decision.flags: shared another check's backend request.
 */
#define ALTA_AUTH_COALESCED 1

/**
 * alta_auth_decision.flags: the backend sent X-Unique.
 */
#define ALTA_AUTH_UNIQUE 2

/**
 * alta_auth_decision.flags: of a watch: it has ended, nothing more is delivered for its ticket.
 */
#define ALTA_AUTH_LAST 4

/**
 * Levels of alta_auth_log: what keeps the engine from working.
 */
#define ALTA_AUTH_LOG_ERROR 1

/**
 * What an operator should look into.
 */
#define ALTA_AUTH_LOG_WARN 2

/**
 * Starts, stops, changes of state.
 */
#define ALTA_AUTH_LOG_INFO 3

/**
 * Each outage with its stage.
 */
#define ALTA_AUTH_LOG_DEBUG 4

/**
 * A configuration. One thread uses it at a time.
 */
typedef struct alta_auth_config alta_auth_config;

/**
 * An engine: asks backends, on threads of its own. Every function but free may be called from any thread.
 */
typedef struct alta_auth_engine alta_auth_engine;

/**
 * A queue of decisions of one engine. The intended use is one for each thread of the host.
 */
typedef struct alta_auth_queue alta_auth_queue;

/**
 * Text: pointer and length, any bytes, no NUL needed. NULL with length 0 is empty.
 */
typedef struct alta_auth_str {
    const char *ptr;
    size_t len;
} alta_auth_str;

/**
 * Takes a line of the log; the message is valid until the function returns, and is not NUL-terminated. Called on any
 * thread of the library, and on a thread of the host during its calls; no lock is held; must not block. Drain, shutdown,
 * check and free of the engine that logs are refused there (ALTA_AUTH_ERR_THREAD), on whichever thread. What it would itself
 * cause to be logged is not.
 */
typedef void (*alta_auth_log)(void *user_data, int32_t level, struct alta_auth_str message);

/**
 * Run on each thread of the library, before its first and after its last callback.
 */
typedef void (*alta_auth_thread_hook)(void *user_data);

/**
 * One question. Initialise with ALTA_AUTH_REQUEST_INIT. Every text is copied before the call returns.
 */
typedef struct alta_auth_request {
    uint32_t struct_size;
    /**
     * ALTA_AUTH_FRESH
     */
    uint32_t flags;
    /**
     * Required, at most 1 KiB. X-Session-Id.
     */
    struct alta_auth_str session_id;
    /**
     * At most 1 KiB. X-Real-Ip.
     */
    struct alta_auth_str ip;
    /**
     * X-Real-Path: path only, no query; what the host will serve, after its own normalisation. At most 4 KiB.
     */
    struct alta_auth_str path;
    /**
     * The client's raw query, without '?'. At most 16 KiB; 256 parameters with the operator's.
     */
    struct alta_auth_str query;
    /**
     * X-Real-Origin: scheme://host[:port]. At most 1 KiB.
     */
    struct alta_auth_str origin;
    /**
     * X-Real-Ua; cut at 2 KiB.
     */
    struct alta_auth_str user_agent;
    /**
     * What the decision covers, e.g. a channel; at most 1 KiB. Empty: see the configuration key scope.
     */
    struct alta_auth_str scope;
    /**
     * From submit to decision; at most the configured timeout. 0: the configured timeout.
     */
    uint32_t timeout_ms;
    /**
     * 0
     */
    uint32_t reserved;
} alta_auth_request;

/**
 * The answer to one check.
 */
typedef struct alta_auth_decision {
    uint32_t struct_size;
    /**
     * ALTA_AUTH_ALLOW or ALTA_AUTH_DENY: what to do.
     */
    int32_t verdict;
    /**
     * ALTA_AUTH_ORIGIN_…: who says so.
     */
    int32_t origin;
    /**
     * ALTA_AUTH_CAUSE_…: why there was no answer from the backend.
     */
    int32_t cause;
    /**
     * ALTA_AUTH_COALESCED, ALTA_AUTH_UNIQUE, ALTA_AUTH_LAST
     */
    uint32_t flags;
    /**
     * 0 if no status line was received.
     */
    uint32_t http_status;
    /**
     * For how long this decision may be reused.
     */
    uint32_t ttl_ms;
    /**
     * X-Max-Sessions; 0 if absent.
     */
    uint32_t max_sessions;
    /**
     * From submit to decision; 0 for a later decision of a watch.
     */
    uint64_t latency_ns;
    /**
     * As submit gave it.
     */
    uint64_t ticket;
    /**
     * X-UserId: visible ASCII, at most 256 bytes; otherwise empty.
     */
    struct alta_auth_str user_id;
    /**
     * X-Location or Location: where the backend would send the client; http, https or a path, at most 2 KiB.
     */
    struct alta_auth_str location;
    /**
     * One line for a log; never contains the query or the value of a header.
     */
    struct alta_auth_str detail;
} alta_auth_decision;

/**
 * A decision that came out of a queue.
 */
typedef struct alta_auth_completion {
    uint32_t struct_size;
    uint32_t reserved;
    /**
     * As given to submit.
     */
    void *user_data;
    struct alta_auth_decision decision;
} alta_auth_completion;

/**
 * Counters. submitted = completed + cancelled + pending, at every reading.
 */
typedef struct alta_auth_stats {
    uint32_t struct_size;
    uint32_t reserved;
    /**
     * Checks accepted.
     */
    uint64_t submitted;
    /**
     * Checks delivered.
     */
    uint64_t completed;
    uint64_t cancelled;
    /**
     * Accepted, neither delivered nor cancelled, now; unreaped ones included.
     */
    uint64_t pending;
    /**
     * ALTA_AUTH_ERR_FULL given, to checks and watches.
     */
    uint64_t refused;
    /**
     * Delivered decisions.
     */
    uint64_t allowed;
    uint64_t denied;
    /**
     * Delivered decisions, by origin.
     */
    uint64_t from_backend;
    uint64_t from_memory;
    uint64_t from_last_known;
    uint64_t from_default;
    /**
     * Checks that shared another's request.
     */
    uint64_t coalesced;
    /**
     * Requests begun.
     */
    uint64_t exchanges;
    /**
     * Safe retries among them.
     */
    uint64_t retries;
    /**
     * Since the start.
     */
    uint64_t connections_opened;
    /**
     * Now.
     */
    uint64_t connections_open;
    uint64_t connections_idle;
    /**
     * Decisions remembered, now; expired ones that were not taken out yet included.
     */
    uint64_t remembered;
    /**
     * Calls of alta_auth_revoke, alta_auth_revoke_user and alta_auth_revoke_all.
     */
    uint64_t revoked;
    /**
     * Delivered decisions, by cause.
     */
    uint64_t causes[16];
} alta_auth_stats;

/**
 * Takes a decision. It and its texts are valid until the callback returns. Runs on an alta-cb thread, or with
 * threads.callback = 0 on an alta-io thread, where a slow one delays every check. Must not throw or longjmp.
 */
typedef void (*alta_auth_callback)(void *user_data, const struct alta_auth_decision *decision);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A new, empty configuration; NULL only for want of memory. Free it with alta_auth_config_free, unless
 * alta_auth_engine_new or alta_auth_engine_reload took it.
 */
struct alta_auth_config *alta_auth_config_new(void);

/**
 * Sets one key; the last value counts. Durations are 500ms, 2s, 10m; sizes 64KiB; lists are comma-separated. On an error
 * nothing has changed and error (which may be NULL) says which key, why, and what to do.
 */
int32_t alta_auth_config_set(struct alta_auth_config *config,
                             const char *key,
                             const char *value,
                             char *error,
                             size_t error_len);

/**
 * Sets every key of a TOML file. On an error nothing has changed and error says why.
 */
int32_t alta_auth_config_load(struct alta_auth_config *config,
                              const char *toml_path,
                              char *error,
                              size_t error_len);

/**
 * Where lines of the log go, up to log.level; NULL: nowhere. No line comes after alta_auth_engine_free has returned. One may
 * come here after a reload to another log has returned, from a thread that was on its way: what user_data points to must
 * live until the engine is freed, not until the reload.
 */
int32_t alta_auth_config_set_log(struct alta_auth_config *config,
                                 alta_auth_log log,
                                 void *user_data);

/**
 * Run start and stop on each thread of an engine (alta-io-N, alta-cb-N, and alta-dns where a URL has a name: one, or as many
 * as lookups go on at once, at most 16), before its first and after its last callback; either may be NULL. For hosts whose
 * threads must be registered or pinned. A reload does not change them. An alta-dns that hangs in the system's resolver when
 * its engine is freed runs no stop.
 */
int32_t alta_auth_config_set_thread_hooks(struct alta_auth_config *config,
                                          alta_auth_thread_hook start,
                                          alta_auth_thread_hook stop,
                                          void *user_data);

/**
 * Frees a configuration that no engine took. NULL is accepted.
 */
void alta_auth_config_free(struct alta_auth_config *config);

/**
 * Checks the configuration as a whole and starts an engine. Takes the configuration on ALTA_AUTH_OK only; otherwise
 * error says why. A backend that cannot be reached is no error: it is an outage, when it is asked.
 */
int32_t alta_auth_engine_new(struct alta_auth_config *config,
                             struct alta_auth_engine **out,
                             char *error,
                             size_t error_len);

/**
 * Turns a running engine to another configuration: backends, policy, credentials and log at once. Checks in flight end
 * under the old one; a check submitted after this never joins an exchange that began before it. Takes the
 * configuration on ALTA_AUTH_OK only; otherwise nothing has changed and error says why. threads.io, threads.callback,
 * inbox.capacity and overload cannot be changed. The log before must outlive this: see alta_auth_config_set_log.
 * ALTA_AUTH_ERR_CLOSED: the engine is shutting down or shut down.
 */
int32_t alta_auth_engine_reload(struct alta_auth_engine *handle,
                                struct alta_auth_config *config,
                                char *error,
                                size_t error_len);

/**
 * Waits until each check that was accepted before this is decided and its callback has returned; not for reap. Does not
 * stop submits. 0 asks without waiting, UINT32_MAX waits for ever. ALTA_AUTH_ERR_TIMEOUT: some are pending.
 */
int32_t alta_auth_engine_drain(struct alta_auth_engine *handle,
                               uint32_t timeout_ms);

/**
 * Stops accepting, waits until the deadline, then completes the rest with the default action and
 * ALTA_AUTH_CAUSE_SHUTDOWN (and returns ALTA_AUTH_ERR_TIMEOUT). Reap, cancel and statistics work after it.
 */
int32_t alta_auth_engine_shutdown(struct alta_auth_engine *handle,
                                  uint32_t timeout_ms);

/**
 * Shuts down at once if that was not done, and frees. After it has returned no callback and no log callback runs again.
 * Queues may be freed before or after. Refused, and logged, from inside a callback of the same engine (from inside its log
 * callback only refused). In a forked child it does nothing, and closes no descriptor. NULL is accepted.
 */
void alta_auth_engine_free(struct alta_auth_engine *handle);

/**
 * The configured default_action, ALTA_AUTH_ALLOW or ALTA_AUTH_DENY: what a host does where a check is not accepted for
 * want of room. ALTA_AUTH_DENY for NULL and in a forked child.
 */
int32_t alta_auth_default_action(const struct alta_auth_engine *handle);

/**
 * The version of the library, e.g. "0.1.0". Static.
 */
const char *alta_auth_version(void);

/**
 * major << 16 | minor << 8 | patch of the library; ALTA_AUTH_VERSION_NUMBER is that of the header.
 */
uint32_t alta_auth_version_number(void);

/**
 * "ALTA_AUTH_ERR_FULL" and the like; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
 */
const char *alta_auth_status_name(int32_t status);

/**
 * "ALTA_AUTH_ALLOW" or "ALTA_AUTH_DENY"; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
 */
const char *alta_auth_verdict_name(int32_t verdict);

/**
 * "ALTA_AUTH_ORIGIN_MEMORY" and the like; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
 */
const char *alta_auth_origin_name(int32_t origin);

/**
 * "ALTA_AUTH_CAUSE_TIMEOUT" and the like; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
 */
const char *alta_auth_cause_name(int32_t cause);

/**
 * A new queue. It may be freed before or after its engine; without its engine it reaps nothing.
 */
int32_t alta_auth_queue_new(struct alta_auth_engine *handle, struct alta_auth_queue **out);

/**
 * The descriptor to poll: readable while completions wait, with level- and with edge-triggered polling. It can be
 * readable with nothing to reap. Only the library reads, writes and closes it. -1 for NULL and in a forked child.
 */
int alta_auth_queue_fd(const struct alta_auth_queue *handle);

/**
 * As alta_auth_submit; the decision comes out of alta_auth_queue_reap.
 */
int32_t alta_auth_queue_submit(struct alta_auth_queue *handle,
                               const struct alta_auth_request *check,
                               void *user_data,
                               uint64_t *ticket);

/**
 * As alta_auth_watch; the decisions come out of alta_auth_queue_reap, at most one at a time in the queue for each watch.
 * alta_auth_cancel is ALTA_AUTH_ERR_NOT_FOUND only for a watch that has ended, or that another thread is just reaping.
 */
int32_t alta_auth_queue_watch(struct alta_auth_queue *handle,
                              const struct alta_auth_request *check,
                              void *user_data,
                              uint64_t *ticket);

/**
 * As alta_auth_submit_batch; the decisions come out of alta_auth_queue_reap.
 */
size_t alta_auth_queue_submit_batch(struct alta_auth_queue *handle,
                                    const struct alta_auth_request *requests,
                                    size_t count,
                                    void *const *user_data,
                                    int32_t *statuses);

/**
 * Takes up to max completions, oldest first; never blocks. The caller sets the first element's struct_size, the stride.
 * Texts are valid until the next reap on this queue. Returns how many; 0 for NULL, a bad struct_size, an engine that
 * was freed, and in a forked child.
 */
size_t alta_auth_queue_reap(struct alta_auth_queue *handle,
                            struct alta_auth_completion *out,
                            size_t max);

/**
 * Cancels what is pending in the queue and its watches, drops what was not reaped (counted as cancelled), and frees. In a
 * forked child it does nothing, and closes no descriptor. NULL is accepted.
 */
void alta_auth_queue_free(struct alta_auth_queue *handle);

/**
 * Forgets what is known of a session at once; an answer in flight does not revive it, and its watches end. Until the
 * backend has answered again, for ttl.max at most, the session gets neither a last known decision nor a default action
 * that lets it in. With sessions.enforce it gives its place back, and is not banned any more. Costs the same whatever is remembered. ALTA_AUTH_OK for any id that is not empty.
 */
int32_t alta_auth_revoke(struct alta_auth_engine *handle,
                         struct alta_auth_str session_id);

/**
 * As alta_auth_revoke for all that the backend said of a user (X-UserId), in whatever session. The default action denies
 * where the engine still knows that the question was this user's. ALTA_AUTH_OK for any id that is not empty.
 */
int32_t alta_auth_revoke_user(struct alta_auth_engine *handle,
                              struct alta_auth_str user_id);

/**
 * As alta_auth_revoke for every session there is. The default action denies until the backend has answered any check that
 * was submitted after this, for ttl.max at most.
 */
int32_t alta_auth_revoke_all(struct alta_auth_engine *handle);

/**
 * Reads the counters. submitted = completed + cancelled + pending holds at every reading.
 */
int32_t alta_auth_stats_read(const struct alta_auth_engine *handle, struct alta_auth_stats *out);

/**
 * The counters as Prometheus text (exposition format 0.0.4). Like snprintf: writes what fits in len bytes, NUL-terminated,
 * and returns the full length without the NUL. 0 for NULL and in a forked child.
 */
size_t alta_auth_metrics_text(const struct alta_auth_engine *handle,
                              char *buffer,
                              size_t len);

/**
 * Accepts a check; never blocks. On ALTA_AUTH_OK the callback is called exactly once with user_data, on a thread of the
 * library and never from inside this call, unless the check is cancelled first. *ticket (may be NULL) names the check
 * for alta_auth_cancel; it is never 0, and written before the callback can run. Otherwise nothing is retained.
 */
int32_t alta_auth_submit(struct alta_auth_engine *handle,
                         const struct alta_auth_request *check,
                         alta_auth_callback callback,
                         void *user_data,
                         uint64_t *ticket);

/**
 * Watches a connection that stays open (RTMP, RTSP, SRT, MPEG-TS over HTTP); never blocks. On ALTA_AUTH_OK the callback is
 * called with user_data for the first decision and then for each change of it, one call at a time, until the watch ends: by
 * alta_auth_cancel of *ticket, or by itself with a decision that has ALTA_AUTH_LAST, after which user_data is not used any
 * more. It ends by itself when its session, its user or all are revoked (at once, ALTA_AUTH_DENY), when a newer session takes
 * its place (sessions.enforce, ALTA_AUTH_DENY), and at shutdown (ALTA_AUTH_CAUSE_SHUTDOWN, with the verdict that held).
 * The backend is asked again when the time of a decision ends, or after watch.interval where it has none, at most
 * watch.max_rate times a second for all watches. A change is another verdict, user_id, location, max_sessions or
 * ALTA_AUTH_UNIQUE; changes that come while the host has not taken the one before are one. A watch is no check: it is not
 * pending, drain does not wait for it, and of alta_auth_stats' counters of checks it counts in none but refused. timeout_ms
 * does not apply. ALTA_AUTH_ERR_FULL: watch.max are open.
 */
int32_t alta_auth_watch(struct alta_auth_engine *handle,
                        const struct alta_auth_request *check,
                        alta_auth_callback callback,
                        void *user_data,
                        uint64_t *ticket);

/**
 * Accepts many checks, with one wake-up. Returns how many were accepted; statuses (may be NULL) says which were not, and
 * why. The stride is the first element's struct_size, which all must have; one bad item does not spoil the others.
 * user_data may be NULL: then all are.
 */
size_t alta_auth_submit_batch(struct alta_auth_engine *handle,
                              const struct alta_auth_request *requests,
                              size_t count,
                              alta_auth_callback callback,
                              void *const *user_data,
                              int32_t *statuses);

/**
 * Asks and waits: blocks the calling thread until there is a decision, at most timeout. ALTA_AUTH_OK whenever there is
 * one, a default action included. Its texts are valid until the next check or lookup on the same thread.
 * ALTA_AUTH_ERR_THREAD from inside a callback of the same engine.
 */
int32_t alta_auth_check(struct alta_auth_engine *handle,
                        const struct alta_auth_request *check,
                        struct alta_auth_decision *out);

/**
 * What is remembered and has not expired; never blocks and asks nobody. ALTA_AUTH_ERR_NOT_FOUND: nothing. Its texts are
 * valid until the next check or lookup on the same thread.
 */
int32_t alta_auth_lookup(struct alta_auth_engine *handle,
                         const struct alta_auth_request *check,
                         struct alta_auth_decision *out);

/**
 * Takes a check back; never waits. ALTA_AUTH_OK: it will never be delivered and its user_data never used again, even if
 * its completion was in a queue already. ALTA_AUTH_ERR_NOT_FOUND: it was delivered, is being delivered or is about to
 * be; only the receiver may free user_data.
 * Of a watch: ALTA_AUTH_OK: nothing more is delivered, also from inside its own callback. ALTA_AUTH_ERR_NOT_FOUND: it has
 * ended, or another thread is just inside its callback; then it ends all the same, and one more decision follows, with
 * ALTA_AUTH_LAST, for the receiver to free user_data in.
 */
int32_t alta_auth_cancel(struct alta_auth_engine *handle,
                         uint64_t ticket);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/* The alta_auth_str of a NUL-terminated text; NULL gives the empty one. */
static inline alta_auth_str alta_auth_str_of(const char *text) {
    alta_auth_str str;
    str.ptr = text;
    str.len = text != NULL ? strlen(text) : 0;
    return str;
}

#endif /* ALTA_AUTH_H */
