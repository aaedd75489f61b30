/* What the measuring programs share: clocks, latencies, request bytes, the end on a void run.
 *
 * Each program prints one line, `name=value name=value ...`, which the harness reads. CPU is not in it: the harness takes
 * that of the whole process, start and end included, for every client alike. */
#ifndef MEASURE_H
#define MEASURE_H
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A run whose verdicts, origins or numbers are not what they must be measures nothing. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void void_run(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("void: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    _exit(1);
}

static inline void need(int holds, const char *what) {
    if (!holds) {
        void_run("%s", what);
    }
}

static inline uint64_t clock_ns(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static inline uint64_t now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

/* Latencies in buckets of an eighth of their power of two: a percentile is at most 13 % too high. One writer. */
typedef struct latencies {
    uint64_t buckets[64 * 8];
    uint64_t count, worst;
} latencies;

static inline void latencies_add(latencies *all, uint64_t ns) {
    unsigned power = 63u - (unsigned)__builtin_clzll(ns | 8);
    all->buckets[power * 8 + ((ns >> (power - 3)) & 7)]++;
    all->count++;
    all->worst = ns > all->worst ? ns : all->worst;
}

/* The upper end of the bucket, in microseconds. */
static inline double latencies_us(const latencies *all, double share) {
    uint64_t upto = 0, wanted = (uint64_t)(share * (double)all->count);
    for (unsigned i = 0; i < 64 * 8; i++) {
        upto += all->buckets[i];
        if (upto > wanted) {
            return (double)((uint64_t)(9 + i % 8) << (i / 8 - 3)) / 1000;
        }
    }
    return (double)all->worst / 1000;
}

static inline void latencies_print(const latencies *all) {
    printf("p50_us=%.1f p99_us=%.1f p999_us=%.1f worst_us=%.1f ", latencies_us(all, 0.5), latencies_us(all, 0.99),
           latencies_us(all, 0.999), (double)all->worst / 1000);
}

/* The request of every client, 324 bytes with a port of five digits; the harness passes the same texts to wrk. */
#define SESSION_DIGITS 16
#define BENCH_QUERY "token=0123456789abcdef0123456789abcdef"
#define BENCH_IP "192.0.2.123"
#define BENCH_PATH "/channel/index.m3u8"
#define BENCH_ORIGIN "https://live.example.com"
#define BENCH_AGENT "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 TV/1.0.0"

/* Counts in decimal, in place: distinct sessions without snprintf in the measured loop. */
static inline void session_next(char *digits) {
    for (size_t i = SESSION_DIGITS; i-- > 0;) {
        if (++digits[i] <= '9') {
            return;
        }
        digits[i] = '0';
    }
}

static inline void session_set(char *digits, uint64_t number) {
    for (size_t i = SESSION_DIGITS; i-- > 0; number /= 10) {
        digits[i] = (char)('0' + number % 10);
    }
}
#endif
