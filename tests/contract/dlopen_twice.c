/*
 * Loads the shared library by path, uses it, unloads it; twice. After each turn no thread of the library runs, and
 * none of its descriptors is open, so that a plugin host survives the unloading.
 *
 * usage: dlopen_twice /path/to/libalta_auth.so
 */
#define _GNU_SOURCE
#include <alta_auth.h>

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(expression)                                                                                              \
    do {                                                                                                               \
        if (!(expression)) {                                                                                           \
            fprintf(stderr, "FAIL dlopen_twice %s:%d %s\n", __FILE__, __LINE__, #expression);                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Of a directory in /proc, the one that lists it excluded. */
static size_t entries(const char *path) {
    size_t n = 0;
    DIR *directory = opendir(path);
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory));) {
        n += entry->d_name[0] != '.';
    }
    closedir(directory);
    return n;
}

/* A joined thread leaves /proc a moment after the join. */
static int settles_at(const char *path, size_t n) {
    struct timespec moment = {0, 2000000};
    for (int i = 0; i < 5000 && entries(path) != n; i++) {
        nanosleep(&moment, NULL);
    }
    return entries(path) == n;
}

/* ISO C has no conversion from an object pointer to a function pointer; POSIX says that this one works. */
#define LOAD(library, name)                                                                                            \
    __typeof__(&name) name##_;                                                                                         \
    do {                                                                                                               \
        void *symbol = dlsym(library, #name);                                                                          \
        CHECK(symbol != NULL);                                                                                         \
        memcpy(&name##_, &symbol, sizeof symbol);                                                                      \
    } while (0)

static void use(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "FAIL dlopen_twice %s\n", dlerror());
        exit(1);
    }
    LOAD(library, alta_auth_version_number);
    LOAD(library, alta_auth_config_new);
    LOAD(library, alta_auth_config_set);
    LOAD(library, alta_auth_engine_new);
    LOAD(library, alta_auth_check);
    LOAD(library, alta_auth_engine_free);
    CHECK(alta_auth_version_number_() == ALTA_AUTH_VERSION_NUMBER);
    alta_auth_config *config = alta_auth_config_new_();
    CHECK(config != NULL);
    CHECK(alta_auth_config_set_(config, "backend.url", "unix:/nonexistent/socket:/auth", NULL, 0) == ALTA_AUTH_OK);
    CHECK(alta_auth_config_set_(config, "default_action", "deny", NULL, 0) == ALTA_AUTH_OK);
    CHECK(alta_auth_config_set_(config, "log.level", "off", NULL, 0) == ALTA_AUTH_OK);
    alta_auth_engine *engine = NULL;
    CHECK(alta_auth_engine_new_(config, &engine, NULL, 0) == ALTA_AUTH_OK);
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    request.session_id = alta_auth_str_of("s");
    CHECK(alta_auth_check_(engine, &request, &decision) == ALTA_AUTH_OK);
    CHECK(decision.verdict == ALTA_AUTH_DENY);
    CHECK(decision.cause == ALTA_AUTH_CAUSE_CONNECT);
    alta_auth_engine_free_(engine);
    CHECK(dlclose(library) == 0);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: dlopen_twice /path/to/libalta_auth.so\n", stderr);
        return 2;
    }
    size_t threads = entries("/proc/self/task"), descriptors = entries("/proc/self/fd");
    for (int turn = 0; turn < 2; turn++) {
        use(argv[1]);
        CHECK(settles_at("/proc/self/task", threads));
        CHECK(settles_at("/proc/self/fd", descriptors));
    }
    puts("ok dlopen_twice");
    return 0;
}
