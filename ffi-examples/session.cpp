// session: one viewer's session with the C++ wrapper, from its opening query to its end.
//
//     session KEY=VALUE... -- QUERY PATH...
//     e.g.  session backend.url=http://127.0.0.1:6000/auth -- token=123 /news/index.m3u8 /news/1.ts
//
// All paths are asked for at once, each with the query that opened the session and the channel as its scope; the
// decisions arrive on a thread of the library. Prints a line for each path. Exit status: 0 if all are served.

#include <alta_auth.hpp>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace auth = alta::auth;

namespace {

struct Outcome {
    bool serve;
    std::string reason;
};

/// What a server keeps for a viewer. Ends by having what is remembered of it forgotten.
class Session {
public:
    Session(auth::Engine &engine, std::string query) : engine_(engine), id_(new_id()), query_(std::move(query)) {}
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;
    ~Session() { static_cast<void>(engine_.try_revoke(id_)); }

    /// `path` is what will be served: normalised by the host.
    std::future<Outcome> may_watch(std::string_view path) {
        auth::Request request;
        request.session_id = id_;
        request.path = path;
        request.query = query_;
        request.scope = path.substr(0, path.find('/', 1) + 1);

        std::promise<Outcome> promise;
        std::future<Outcome> outcome = promise.get_future();
        // The callable owns the promise: it is freed with it, whether it is called or not.
        auto decided = [promise = std::move(promise)](const auth::Decision &decision) mutable {
            promise.set_value({decision.allowed(), std::string(name(decision.origin())) + " " + name(decision.cause())});
        };
        const auth::Status status = engine_.try_submit(request, std::move(decided));
        if (status != auth::Status::ok) {
            // Refuse what cannot be asked; the default action for what there is no room for.
            std::promise<Outcome> refused;
            refused.set_value({engine_.when_refused(status) == auth::Verdict::allow, name(status)});
            return refused.get_future();
        }
        return outcome;
    }

private:
    static std::string new_id() {
        std::random_device random;
        std::string id;
        for (int i = 0; i < 4; i++) {
            char part[9];
            std::snprintf(part, sizeof part, "%08x", random());
            id += part;
        }
        return id;
    }

    auth::Engine &engine_;
    std::string id_;
    std::string query_;
};

int run(const std::vector<std::string_view> &arguments) {
    auth::Config config;
    config.set("default_action", "deny");
    config.set_log([](auth::LogLevel, std::string_view line) {
        std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
    });
    std::size_t at = 0;
    for (; at < arguments.size() && arguments[at] != "--"; at++) {
        const std::size_t equals = arguments[at].find('=');
        if (equals == std::string_view::npos) {
            break;
        }
        config.set(arguments[at].substr(0, equals), arguments[at].substr(equals + 1));
    }
    if (arguments.size() < at + 3 || arguments[at] != "--") {
        std::fprintf(stderr, "usage: session KEY=VALUE... -- QUERY PATH...\n");
        return 64;
    }
    // A callback that throws leaves its client unserved; that is no reason to stop serving the others.
    auth::set_exception_handler([](std::exception_ptr) noexcept { std::fprintf(stderr, "a callback threw\n"); });

    auth::Engine engine(std::move(config));
    Session session(engine, std::string(arguments[at + 1]));
    std::vector<std::pair<std::string_view, std::future<Outcome>>> asked;
    for (std::size_t i = at + 2; i < arguments.size(); i++) {
        asked.emplace_back(arguments[i], session.may_watch(arguments[i]));
    }
    bool all = true;
    for (auto &[path, outcome] : asked) {
        const Outcome decided = outcome.get();
        std::printf("%.*s: %s (%s)\n", static_cast<int>(path.size()), path.data(), decided.serve ? "serve" : "refuse",
                    decided.reason.c_str());
        all = all && decided.serve;
    }
    return all ? EXIT_SUCCESS : EXIT_FAILURE;
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(std::vector<std::string_view>(argv + 1, argv + argc));
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 78;
    }
}
