/* Configuration: keys, error texts, ownership, the log. */
#define _GNU_SOURCE
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *key;
    const char *good;
    const char *bad;
} keys[] = {
    {"backend.url", "http://127.0.0.1:1/auth", "gopher://127.0.0.1/"},
    {"backend.url", "https://example.com/auth", "http://127.0.0.1/auth#fragment"},
    {"backend.url", "unix:/run/backend.sock:/auth", ""},
    {"backend.mode", "failover", "nonsense"},
    {"backend.mode", "balance", ""},
    {"backend.mode", "any", "ANYTHING"},
    {"backend.preset", "custom", "nonsense"},
    {"backend.preset", "ministra", ""},
    {"backend.preset", "iptvportal", "IptvPortal2"},
    {"backend.preset", "smarty", "clever"},
    {"default_action", "allow", "maybe"},
    {"default_action", "deny", ""},
    {"timeout", "500ms", "banana"},
    {"timeout", "2s", "-1s"},
    {"connect_timeout", "10m", "5 parsecs"},
    {"scope", "path", "nonsense"},
    {"scope", "directory", ""},
    {"scope", "session", "sessions"},
    {"allow_statuses", "200,204", "200;204"},
    {"allow_statuses", "200", "20x"},
    {"unavailable_statuses", "502,503,504", "404"},
    {"unavailable_statuses", "5xx", "6xx"},
    {"unavailable_statuses", "", "200"},
    {"verdict.body", "json:error==0", "xml:error==0"},
    {"verdict.body", "json:a.b!=\"x\"", "json:error=0"},
    {"ttl.allow", "10m", "10 parsecs"},
    {"ttl.deny", "0", "-1"},
    {"ttl.max", "24h", "long"},
    {"ttl.max_deny", "60s", "short"},
    {"last_known", "10m", "yes"},
    {"protect_params", "ip,name", NULL},
    {"param.ip", "{ip}", "{nonsense}"},
    {"param.all", "{path}{session_id}{origin}{user_agent}{query.X}{scope}{path.1}", "{other}"},
    {"header.X-Key", "secret", "{nonsense}"},
    {"header.X-Other", "{ip}", "a\rb"},
    {"pool.max_connections", "256", "-1"},
    {"pool.idle_timeout", "1500ms", "soon"},
    {"http.version", "auto", "3"},
    {"http.version", "1.1", "1.0.0"},
    {"http.version", "2", "nonsense"},
    {"http.version", "h2c", ""},
    {"http.lane", "auto", "fast"},
    {"http.lane", "hyper", ""},
    {"http.lane", "wire", "wired"},
    {"http.pipeline", "1", "-1"},
    {"tls.verify", "on", "sometimes"},
    {"tls.server_name", "example.com", NULL},
    {"breaker.failures", "0", "-1"},
    {"breaker.cooldown", "1s", "cold"},
    {"inbox.capacity", "65536", "many"},
    {"overload", "refuse", "nonsense"},
    {"overload", "default", ""},
    {"memory.max_decisions", "1000000", "all"},
    {"threads.io", "1", "-1"},
    {"threads.callback", "0", "x"},
    {"dns.refresh", "30s", "often"},
    {"fail_open", "each", "nonsense"},
    {"fail_open", "corroborated", ""},
    {"fail_open.overload", "on", "maybe"},
    {"path.check", "off", "maybe"},
    {"tls.mixed", "on", "maybe"},
    {"unix.peer_uid", "1000", "root of all"},
    {"log.level", "debug", "loud"},
    {"log.level", "off", "9"},
};

/* A bad value is refused where it is set, or at the latest where an engine is made of it. */
static int32_t refusal(alta_auth_config *config, const char *key, const char *value, char *error, size_t size) {
    alta_auth_engine *engine = NULL;
    int32_t status = alta_auth_config_set(config, key, value, error, size);
    return status != ALTA_AUTH_OK ? status : alta_auth_engine_new(config, &engine, error, size);
}

CASE(config_keys) {
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        alta_auth_config *config = config_with("http://127.0.0.1:1/auth", keys[i].key, keys[i].good, NULL);
        if (keys[i].bad) {
            char error[512] = "";
            int32_t status = refusal(config, keys[i].key, keys[i].bad, error, sizeof error);
            if (status != ALTA_AUTH_ERR_CONFIG || !strstr(error, keys[i].key) || strpbrk(error, "\r\n")) {
                fail(__FILE__, __LINE__, "%s = %s: %d %s", keys[i].key, keys[i].bad, (int)status, error);
            }
        }
        alta_auth_config_free(config);
    }
}

CASE(config_unknown_keys) {
    static const char *const strangers[] = {"", "nonsense", "backend", "TIMEOUT", "timeout ", "param.", "threads.gpu"};
    alta_auth_config *config = alta_auth_config_new();
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        char error[256] = "";
        CHECK_EQ(alta_auth_config_set(config, strangers[i], "1", error, sizeof error), ALTA_AUTH_ERR_CONFIG);
        CHECK(*error != '\0');
        /* Named as far as it can be a key: what follows may be a secret. */
        char named[16];
        snprintf(named, sizeof named, "%.*s", (int)strcspn(strangers[i], " "), strangers[i]);
        CHECK(strstr(error, named) != NULL);
    }
    alta_auth_config_free(config);
}

CASE(config_required_keys_and_ownership) {
    alta_auth_config *config = alta_auth_config_new();
    alta_auth_engine *engine = NULL;
    char error[512] = "";
    set_key(config, "default_action", "deny");
    CHECK_EQ(alta_auth_engine_new(config, &engine, error, sizeof error), ALTA_AUTH_ERR_CONFIG);
    CHECK(strstr(error, "backend.url") != NULL);
    CHECK(engine == NULL);
    alta_auth_config_free(config); /* a failed engine_new has not consumed it */

    config = alta_auth_config_new();
    set_key(config, "backend.url", "http://127.0.0.1:1/auth");
    CHECK_EQ(alta_auth_engine_new(config, &engine, error, sizeof error), ALTA_AUTH_ERR_CONFIG);
    CHECK(strstr(error, "default_action") != NULL);
    CHECK(engine == NULL);
    set_key(config, "default_action", "deny"); /* ... and it can be mended */
    CHECK_EQ(alta_auth_engine_new(config, &engine, NULL, 0), ALTA_AUTH_OK);
    CHECK(engine != NULL);
    alta_auth_engine_free(engine);
}

CASE(config_contradictions_are_refused) {
    static const struct {
        const char *keys[6];
        const char *named;
    } rows[] = {
        {{"allow_statuses", "200,503", "unavailable_statuses", "503", NULL, NULL}, "statuses"},
        {{"http.lane", "hyper", "http.pipeline", "4", NULL, NULL}, "pipeline"},
        {{"threads.io", "4", "pool.max_connections", "3", NULL, NULL}, "max_connections"},
        {{"backend.url", "https://example.com/a,http://example.com/a", NULL, NULL, NULL, NULL}, "http"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char error[512] = "";
        alta_auth_engine *engine = NULL;
        alta_auth_config *config = config_with("http://127.0.0.1:1/auth", NULL);
        int32_t status = ALTA_AUTH_OK;
        for (size_t k = 0; rows[i].keys[k] && status == ALTA_AUTH_OK; k += 2) {
            status = alta_auth_config_set(config, rows[i].keys[k], rows[i].keys[k + 1], error, sizeof error);
        }
        if (status == ALTA_AUTH_OK) {
            status = alta_auth_engine_new(config, &engine, error, sizeof error);
        }
        if (status != ALTA_AUTH_ERR_CONFIG || !strstr(error, rows[i].named) || engine) {
            fail(__FILE__, __LINE__, "%s: %d %s", rows[i].keys[0], (int)status, error);
        }
        alta_auth_config_free(config);
    }
}

CASE(error_text_is_cut_on_a_character_boundary) {
    alta_auth_config *config = alta_auth_config_new();
    char whole[1024] = "";
    const char *key = "\xD0\xBA\xD0\xBB\xD1\x8E\xD1\x87-\xE2\x82\xAC\xF0\x9F\x93\xBA";
    CHECK_EQ(alta_auth_config_set(config, key, "1", whole, sizeof whole), ALTA_AUTH_ERR_CONFIG);
    CHECK(is_utf8(whole));
    size_t length = strlen(whole);
    CHECK(length > 0);
    for (size_t room = 0; room <= length + 1; room++) {
        char error[1024];
        memset(error, 0x7F, sizeof error);
        CHECK_EQ(alta_auth_config_set(config, key, "1", error, room), ALTA_AUTH_ERR_CONFIG);
        for (size_t i = room; i < sizeof error; i++) {
            CHECK_EQ(error[i], 0x7F);
        }
        if (room > 0) {
            size_t got = strnlen(error, room);
            CHECK(got < room);
            CHECK(is_utf8(error));
            CHECK(strncmp(error, whole, got) == 0);
            CHECK(got + 4 >= room || got == length); /* no shorter than the boundary asks */
        }
    }
    alta_auth_config_free(config);
}

CASE(engine_new_cuts_its_error_text) {
    for (size_t room = 0; room < 40; room++) {
        char error[64];
        alta_auth_engine *engine = NULL;
        alta_auth_config *config = alta_auth_config_new();
        memset(error, 0x7F, sizeof error);
        CHECK_EQ(alta_auth_engine_new(config, &engine, error, room), ALTA_AUTH_ERR_CONFIG);
        CHECK_EQ(error[room], 0x7F);
        CHECK(room == 0 || strnlen(error, room) < room);
        alta_auth_config_free(config);
    }
}

/* ---- files ---- */

static void write_file(char *path, const char *text) {
    int fd = mkostemp(path, 02000000 /* O_CLOEXEC */);
    CHECK(fd >= 0);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

CASE(config_load_reads_toml) {
    backend *b = backend_start();
    char path[] = "/tmp/contract-XXXXXX";
    char text[512];
    char error[512] = "";
    snprintf(text, sizeof text,
             "default_action = \"deny\"\ntimeout = \"30s\"\nallow_statuses = [200, 204]\n"
             "[backend]\nurl = [\"%s\"]\n[threads]\nio = 2\n[log]\nlevel = \"off\"\n",
             backend_url(b));
    write_file(path, text);
    alta_auth_config *config = alta_auth_config_new();
    int32_t status = alta_auth_config_load(config, path, error, sizeof error);
    if (status != ALTA_AUTH_OK) {
        fail(__FILE__, __LINE__, "config_load: %d %s", (int)status, error);
    }
    unlink(path);
    reply created = {.status = 204};
    backend_rule(b, "t", created);
    alta_auth_engine *engine = engine_from(config);
    alta_auth_request request = ask("s", "token=t");
    CHECK_EQ(check_ok(engine, &request).verdict, ALTA_AUTH_ALLOW);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(config_load_that_fails_changes_nothing) {
    static const char *const texts[] = {
        "default_action = \"deny\"\n[backend]\nurl = \"http://127.0.0.1:1/auth\"\nnonsense = 1\n",
        "default_action = \"deny\"\n[backend]\nurl = \"http://127.0.0.1:1/auth\"\n[threads]\nio = \"many\"\n",
        "default_action = \"deny\"\n[backend]\nurl = \"http://127.0.0.1:1/auth\"\nthis is not TOML\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char path[] = "/tmp/contract-XXXXXX";
        char error[512] = "";
        alta_auth_engine *engine = NULL;
        write_file(path, texts[i]);
        alta_auth_config *config = alta_auth_config_new();
        CHECK_EQ(alta_auth_config_load(config, path, error, sizeof error), ALTA_AUTH_ERR_CONFIG);
        CHECK(*error != '\0');
        unlink(path);
        CHECK_EQ(alta_auth_engine_new(config, &engine, error, sizeof error), ALTA_AUTH_ERR_CONFIG);
        set_key(config, "backend.url", "http://127.0.0.1:1/auth");
        CHECK_EQ(alta_auth_engine_new(config, &engine, error, sizeof error), ALTA_AUTH_ERR_CONFIG);
        CHECK(strstr(error, "default_action") != NULL);
        alta_auth_config_free(config);
    }
}

CASE(config_load_of_a_missing_file) {
    char error[512] = "";
    alta_auth_config *config = alta_auth_config_new();
    int32_t status = alta_auth_config_load(config, "/nonexistent/alta.toml", error, sizeof error);
    CHECK(status == ALTA_AUTH_ERR_CONFIG || status == ALTA_AUTH_ERR_SYSTEM);
    CHECK(strstr(error, "/nonexistent/alta.toml") != NULL);
    alta_auth_config_free(config);
}

CASE(preset_defaults_can_be_set_in_any_order) {
    backend *b = backend_start();
    reply refused_in_body = {.status = 200, .body = "{\"error\":1}"};
    backend_rule(b, "t", refused_in_body);
    alta_auth_engine *first = engine_with(backend_url(b), "backend.preset", "smarty", "verdict.body", "", NULL);
    alta_auth_engine *last = engine_with(backend_url(b), "verdict.body", "", "backend.preset", "smarty", NULL);
    alta_auth_engine *preset = engine_with(backend_url(b), "backend.preset", "smarty", NULL);
    alta_auth_request request = ask("s", "token=t");
    CHECK_EQ(check_ok(first, &request).verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(check_ok(last, &request).verdict, ALTA_AUTH_ALLOW);
    CHECK_EQ(check_ok(preset, &request).verdict, ALTA_AUTH_DENY);
    char head[4096];
    backend_last_request(b, "t", head, sizeof head);
    CHECK(strstr(head, "ip=192.0.2.1") != NULL); /* smarty: param.ip = {ip} */
    alta_auth_engine_free(first);
    alta_auth_engine_free(last);
    alta_auth_engine_free(preset);
    backend_stop(b);
}

/* ---- the log ---- */

typedef struct log_seen {
    pthread_mutex_t lock;
    size_t lines[8]; /* by level */
    size_t secrets;
    bool closed; /* set once the engine has been freed */
} log_seen;

static void on_log(void *user_data, int32_t level, alta_auth_str message) {
    log_seen *log = user_data;
    CHECK(level >= ALTA_AUTH_LOG_ERROR && level <= ALTA_AUTH_LOG_DEBUG);
    CHECK(message.len > 0 && message.ptr != NULL);
    CHECK(memchr(message.ptr, '\n', message.len) == NULL);
    pthread_mutex_lock(&log->lock);
    CHECK(!log->closed);
    log->lines[level]++;
    log->secrets += text_has(message, "CanarySecret");
    pthread_mutex_unlock(&log->lock);
}

/* One warning is promised at the start of an engine with scope = session. */
static void run_logged(backend *b, const char *level, log_seen *log) {
    memset(log, 0, sizeof *log);
    pthread_mutex_init(&log->lock, NULL);
    alta_auth_config *config = config_with(backend_url(b), "scope", "session", "log.level", level, "header.X-Key",
                                           "CanarySecretOfTheHost", NULL);
    CHECK_EQ(alta_auth_config_set_log(config, on_log, log), ALTA_AUTH_OK);
    alta_auth_engine *engine = engine_from(config);
    static const char *const queries[] = {"token=CanarySecretAllowed", "token=CanarySecretReset"};
    for (size_t i = 0; i < 2; i++) {
        alta_auth_request request = ask("s", queries[i]);
        request.user_agent = alta_auth_str_of("CanarySecret\x01\x1b[31m agent");
        alta_auth_decision decision = check_ok(engine, &request);
        CHECK(!text_has(decision.detail, "CanarySecret"));
    }
    alta_auth_engine_free(engine);
    pthread_mutex_lock(&log->lock);
    log->closed = true;
    pthread_mutex_unlock(&log->lock);
    CHECK_EQ(log->secrets, 0);
    pthread_mutex_destroy(&log->lock);
}

CASE(log_levels) {
    backend *b = backend_start();
    reply allow = {.status = 200, .headers = "X-UserId: CanarySecretUser\r\nX-Trace: CanarySecretTrace\r\n"};
    reply reset = {.kind = REPLY_RESET};
    backend_rule(b, "CanarySecretAllowed", allow);
    backend_rule(b, "CanarySecretReset", reset);
    static const char *const names[] = {"off", "error", "warn", "info", "debug"};
    for (int32_t limit = 0; limit <= 4; limit++) {
        log_seen log;
        run_logged(b, names[limit], &log);
        for (int32_t level = limit + 1; level <= 4; level++) {
            CHECK_EQ(log.lines[level], 0);
        }
        if (limit >= ALTA_AUTH_LOG_WARN) {
            CHECK(log.lines[ALTA_AUTH_LOG_WARN] > 0);
        }
    }
    backend_stop(b);
}
