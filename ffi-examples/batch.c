/*
 * batch: decides a file of checks through a queue, many with each call.
 *
 *     batch FILE [KEY=VALUE]...          e.g.  batch checks.txt backend.url=http://127.0.0.1:6000/auth
 *
 * A line of the file is `SESSION IP PATH[?QUERY]`, separated by spaces; `-` is the standard input. For each line one
 * line comes out, in the order of the decisions: line number, verdict, who says so, why, session and path. The query
 * is not printed: it holds the token.
 *
 * Constant memory: at most IN_FLIGHT lines are held, and their texts only until submit returns, because the library
 * copies them. What a server would do differently: it does not wait when the engine is full.
 */
#define _POSIX_C_SOURCE 200809L
#include <alta_auth.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, IN_FLIGHT = 1024, LINE = 32 * 1024 };

/* What has to be known when the decision comes. */
struct line {
    unsigned long number;
    char name[256]; /* session and path, cut */
    struct line *next_free;
};

struct batch {
    size_t count;
    alta_auth_request requests[BATCH];
    void *lines[BATCH];
    int32_t statuses[BATCH];
    char *texts[BATCH];
};

static struct line lines[IN_FLIGHT];
static struct line *free_lines;
static size_t in_flight;

static void print(struct line *line, int32_t verdict, const char *origin, const char *cause) {
    printf("%lu %s %s %s %s\n", line->number, alta_auth_verdict_name(verdict), origin, cause, line->name);
    line->next_free = free_lines;
    free_lines = line;
}

/* Takes what is decided. Waits for something first, if that is asked for and anything is pending. */
static void reap(alta_auth_queue *queue, int wait) {
    alta_auth_completion done[BATCH] = {ALTA_AUTH_COMPLETION_INIT};
    size_t count;
    if (wait && in_flight > 0) {
        struct pollfd readable = {.fd = alta_auth_queue_fd(queue), .events = POLLIN, .revents = 0};
        poll(&readable, 1, -1);
    }
    while ((count = alta_auth_queue_reap(queue, done, BATCH)) > 0) {
        for (size_t i = 0; i < count; i++) {
            const alta_auth_decision *decision = &done[i].decision;
            print(done[i].user_data, decision->verdict, alta_auth_origin_name(decision->origin),
                  alta_auth_cause_name(decision->cause));
        }
        in_flight -= count;
    }
}

/* Hands over a batch, and again what there was no room for. */
static void submit(alta_auth_engine *engine, alta_auth_queue *queue, struct batch *batch) {
    while (batch->count > 0) {
        size_t again = 0;
        in_flight += alta_auth_queue_submit_batch(queue, batch->requests, batch->count, batch->lines, batch->statuses);
        for (size_t i = 0; i < batch->count; i++) {
            int32_t status = batch->statuses[i];
            if (status == ALTA_AUTH_ERR_FULL && in_flight > 0) {
                char *text = batch->texts[again];
                batch->requests[again] = batch->requests[i];
                batch->lines[again] = batch->lines[i];
                batch->texts[again] = batch->texts[i];
                batch->texts[i] = text;
                again++;
            } else if (status == ALTA_AUTH_ERR_FULL || status == ALTA_AUTH_ERR_CLOSED || status == ALTA_AUTH_ERR_SYSTEM) {
                print(batch->lines[i], alta_auth_default_action(engine), "-", alta_auth_status_name(status));
            } else if (status != ALTA_AUTH_OK) {
                /* ERR_INVALID: such a client is refused. Anything else is a defect, and refuses as well. */
                print(batch->lines[i], ALTA_AUTH_DENY, "-", alta_auth_status_name(status));
            }
        }
        for (size_t i = again; i < batch->count; i++) {
            free(batch->texts[i]);
        }
        batch->count = again;
        reap(queue, again > 0);
    }
}

/* Adds one line. Returns 0 if it is not a check. */
static int add(struct batch *batch, struct line *line, char *text) {
    char *rest = text;
    char *session = strtok_r(rest, " \r\n", &rest);
    char *ip = strtok_r(NULL, " \r\n", &rest);
    char *path = strtok_r(NULL, " \r\n", &rest);
    if (session == NULL || ip == NULL || path == NULL) {
        return 0;
    }
    char *query = strchr(path, '?');
    if (query != NULL) {
        *query++ = '\0';
    }
    snprintf(line->name, sizeof line->name, "%.120s %.120s", session, path);
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    request.session_id = alta_auth_str_of(session);
    request.ip = alta_auth_str_of(ip);
    request.path = alta_auth_str_of(path);
    request.query = alta_auth_str_of(query);
    batch->requests[batch->count] = request;
    batch->lines[batch->count] = line;
    batch->texts[batch->count] = text;
    batch->count++;
    return 1;
}

static int decide(alta_auth_engine *engine, alta_auth_queue *queue, FILE *file) {
    static char buffer[LINE];
    struct batch batch = {.count = 0};
    int result = 0;
    for (unsigned long number = 1; fgets(buffer, sizeof buffer, file) != NULL; number++) {
        if (strchr(buffer, '\n') == NULL && !feof(file)) {
            /* The rest of it would be taken for a check. */
            fprintf(stderr, "line %lu: too long\n", number);
            result = 2;
            break;
        }
        char *text = strdup(buffer);
        if (text == NULL) {
            fprintf(stderr, "line %lu: out of memory\n", number);
            result = 1;
            break;
        }
        /* A line that was taken is either in flight or in the batch, so one is free as soon as both are handed over. */
        while (free_lines == NULL) {
            submit(engine, queue, &batch);
            reap(queue, 1);
        }
        struct line *line = free_lines;
        line->number = number;
        if (add(&batch, line, text)) {
            free_lines = line->next_free;
        } else {
            fprintf(stderr, "line %lu: expected SESSION IP PATH[?QUERY]\n", number);
            free(text);
            result = 2;
        }
        if (batch.count == BATCH) {
            submit(engine, queue, &batch);
        }
    }
    if (ferror(file)) { /* not its end: there may be more lines */
        perror("reading");
        result = 74;
    }
    submit(engine, queue, &batch);
    while (in_flight > 0) {
        reap(queue, 1);
    }
    return result;
}

/* Outages, doubtful settings and the like: what an operator has to know. Called on any thread of the library. */
static void say(void *user_data, int32_t level, alta_auth_str message) {
    (void)user_data;
    (void)level;
    fprintf(stderr, "%.*s\n", (int)message.len, message.ptr);
}

static alta_auth_engine *start(int count, char **settings) {
    char error[256] = "out of memory";
    alta_auth_engine *engine = NULL;
    alta_auth_config *config = alta_auth_config_new();
    alta_auth_config_set_log(config, say, NULL);
    int32_t status = alta_auth_config_set(config, "default_action", "deny", error, sizeof error);
    for (int i = 0; i < count && status == ALTA_AUTH_OK; i++) {
        char *value = strchr(settings[i], '=');
        if (value == NULL) {
            fprintf(stderr, "setting %d: expected KEY=VALUE\n", i + 1); /* not what it says: it may be a secret */
            alta_auth_config_free(config);
            return NULL;
        }
        *value++ = '\0';
        status = alta_auth_config_set(config, settings[i], value, error, sizeof error);
    }
    if (status == ALTA_AUTH_OK) {
        status = alta_auth_engine_new(config, &engine, error, sizeof error);
    }
    if (status != ALTA_AUTH_OK) {
        fprintf(stderr, "%s: %s\n", alta_auth_status_name(status), error);
        alta_auth_config_free(config);
    }
    return engine;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: batch FILE [KEY=VALUE]...\n");
        return 64;
    }
    FILE *file = strcmp(argv[1], "-") == 0 ? stdin : fopen(argv[1], "r");
    if (file == NULL) {
        perror(argv[1]);
        return 66;
    }
    alta_auth_engine *engine = start(argc - 2, argv + 2);
    if (engine == NULL) {
        return 78;
    }
    alta_auth_queue *queue = NULL;
    int32_t status = alta_auth_queue_new(engine, &queue);
    if (status != ALTA_AUTH_OK) {
        fprintf(stderr, "queue: %s\n", alta_auth_status_name(status));
        alta_auth_engine_free(engine);
        return 71;
    }
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        lines[i].next_free = free_lines;
        free_lines = &lines[i];
    }
    int result = decide(engine, queue, file);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("writing");
        result = 74;
    }
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    return result;
}
