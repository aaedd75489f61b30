// What an engine was given is the parent's, also where a forked child ends its copy of the engine.
//
//     forks URL
#include <alta_auth.hpp>

#include <cstdio>
#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>

namespace auth = alta::auth;

static void require(bool holds, const char *what) {
    if (!holds) {
        std::printf("not so: %s\n", what);
        std::exit(1);
    }
}

static int destroyed = 0;

// A log that flushes and closes what it has, which is the parent's, too.
struct Log {
    std::shared_ptr<void> file{nullptr, [](void *) { destroyed++; }};
    void operator()(auth::LogLevel, std::string_view) const {}
};

static auth::Config config(const char *url) {
    auth::Config config;
    config.set("backend.url", url).set("default_action", "deny").set_log(Log());
    return config;
}

int main(int, char **arguments) {
    std::optional<auth::Engine> engine(config(arguments[1]));
    engine->reload(config(arguments[1]));
    for (const bool is_replaced : {false, true}) {
        const pid_t child = fork();
        require(child >= 0, "a fork");
        if (child == 0) {
            if (is_replaced) {
                *engine = auth::Engine(config(arguments[1]));
                _exit(destroyed == 0 ? 0 : 1);
            }
            engine.reset();
            _exit(destroyed == 0 ? 0 : 1);
        }
        int status = 0;
        require(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
                is_replaced ? "nothing is destroyed by another engine in its place" : "nothing is destroyed by its end");
    }
    require(engine->check(auth::Request{"s"}).allowed(), "the parent goes on");
    require(destroyed == 0, "the parent has what it gave");
    engine.reset();
    require(destroyed == 2, "and lets go of it at the end");
    std::puts("ok");
}
