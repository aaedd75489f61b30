/*
 * The frame of the contract tests: named cases, checks, and waiting with a deadline.
 *
 * Each case runs in a process of its own, so that one that crashes, hangs or leaks spoils only itself.
 * A case passes when it returns, its process exits with 0 (valgrind and the sanitizers change that status when
 * they find something), and nothing was written to stdout or stderr: the library promises silence, so every
 * case tests it. A failed check ends the process of the case from whichever thread it happens on.
 * A case that finds the machine too slow to show anything says so by not_tested, frees what it has and returns.
 *
 * Environment: CONTRACT_SLOW multiplies every deadline (valgrind, sanitizers); CONTRACT_LIMIT is how many seconds
 * a case may take, before that; CONTRACT_ENGINES and CONTRACT_CHECKS size the endurance cases; CONTRACT_UNDER names the tool the run is under, if any.
 */
#ifndef CONTRACT_HARNESS_H
#define CONTRACT_HARNESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CASE(name)                                                                                                     \
    static void name(void);                                                                                            \
    __attribute__((constructor)) static void register_##name(void) { register_case(#name, name); }                    \
    static void name(void)

void register_case(const char *name, void (*run)(void));

#define CHECK(expression)                                                                                              \
    do {                                                                                                               \
        if (!(expression)) {                                                                                           \
            fail(__FILE__, __LINE__, "%s", #expression);                                                               \
        }                                                                                                              \
    } while (0)
#define CHECK_EQ(left, right)                                                                                          \
    check_equal(__FILE__, __LINE__, #left " == " #right, (long long)(left), (long long)(right))
#define CHECK_TEXT(left, right) check_text(__FILE__, __LINE__, #left " == " #right, left, right)

_Noreturn void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* In a line of its own instead of "ok". */
void not_tested(const char *why);
void check_equal(const char *file, int line, const char *expression, long long left, long long right);
void check_text(const char *file, int line, const char *expression, const char *left, const char *right);

/* How long a case may wait for something that must happen: generous, since only a failure waits for so long. */
int deadline_ms(void);
/* CONTRACT_SLOW times `ms`. */
int scaled_ms(int ms);
/* The number in the environment variable, or `otherwise`. */
size_t parameter(const char *name, size_t otherwise);
/* The tool this run is under ("" for none): what it distorts cannot be measured there. */
const char *run_under(void);

uint64_t now_ns(void);
/* Lets time go by where time itself is the subject of a case; never a substitute for waiting for an event. */
void pass_ms(int ms);
/* For state that announces no change (/proc): true as soon as `holds` is, false at the deadline. */
bool eventually(bool (*holds)(void *context), void *context);

/* A gate that opens once. */
typedef struct gate gate;
gate *gate_new(void);
void gate_open(gate *);
bool gate_wait(gate *); /* false at the deadline */
bool gate_wait_while(gate *, atomic_size_t *moves); /* false at a deadline since which this has not moved */
void gate_free(gate *);

/* Runs `body` in a forked child that must end by itself with status 0; its failed checks are reported as this case's. */
void in_child(void (*body)(void *context), void *context);

#endif
