// A program that was compiled with a newer header than the library that it runs with: `newer` is a field of a decision that this
// library does not know. It is absent, wherever the decision comes from.
//
//     newer URL
#include <alta_auth.hpp>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>

namespace auth = alta::auth;

static void require(bool holds, const char *what) {
    if (!holds) {
        std::printf("not so: %s\n", what);
        std::exit(1);
    }
}

static bool absent(const auth::Decision &decision) {
    return decision.raw().newer == 0 && decision.raw().struct_size == sizeof(alta_auth_decision) && decision.allowed();
}

// As the library's own, with what does not belong to it behind it.
static bool of_a_callback() {
    alta_auth_decision decision;
    std::memset(&decision, 0xff, sizeof decision);
    decision.struct_size = offsetof(alta_auth_decision, newer);
    decision.verdict = ALTA_AUTH_ALLOW;
    return absent(auth::Decision(decision)) && auth::Decision(decision).max_sessions() == UINT32_MAX;
}

int main(int, char **arguments) {
    require(of_a_callback(), "what is behind a decision is not read");

    auth::Config config;
    config.set("backend.url", arguments[1]).set("default_action", "deny");
    auth::Engine engine(std::move(config));
    const auth::Request request{"s"};
    require(absent(engine.check(request)), "check");
    require(absent(engine.lookup(request).value()), "lookup");

    std::promise<bool> submitted;
    engine.submit(request, [&](const auth::Decision &decision) { submitted.set_value(absent(decision)); });
    require(submitted.get_future().get(), "submit");

    std::promise<bool> watched;
    auth::Ticket watch;
    const auto told = [&](const auth::Decision &decision) {
        engine.cancel(watch);
        watched.set_value(absent(decision));
    };
    require(engine.try_watch(request, told, &watch) == auth::Status::ok, "a watch");
    require(watched.get_future().get(), "watch");

    std::promise<bool> first, second;
    const auto each = [&](std::size_t index, const auth::Decision &decision) {
        (index == 0 ? first : second).set_value(absent(decision));
    };
    require(engine.submit_batch({request, request}, each) == 2, "a batch");
    require(first.get_future().get() && second.get_future().get(), "submit_batch");

    auth::Queue queue(engine);
    queue.submit(request, nullptr);
    std::size_t reaped = 0;
    while (reaped == 0) {
        reaped = queue.reap([](void *, const auth::Decision &decision) { require(absent(decision), "reap"); });
    }
    std::puts("ok");
}
