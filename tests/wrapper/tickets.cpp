// Tickets in what a callable owns are whole before it runs; a log callable may come back to the engine that reloads.
//
//     tickets URL
#include <alta_auth.hpp>

#include <cstdio>
#include <cstdlib>
#include <future>

namespace auth = alta::auth;

static void require(bool holds, const char *what) {
    if (!holds) {
        std::printf("not so: %s\n", what);
        std::exit(1);
    }
}

static auth::Config config(const char *url) {
    auth::Config config;
    config.set("backend.url", url).set("default_action", "deny");
    return config;
}

struct Viewer {
    std::promise<bool> whole;
    auth::Ticket ticket;
};

int main(int, char **arguments) {
    auth::Engine engine(config(arguments[1]));
    // The first is asked for, the others are remembered: their callable runs on another thread while submit returns.
    for (int number = 0; number < 5000; number++) {
        auto viewer = std::make_shared<Viewer>();
        auto whole = viewer->whole.get_future();
        Viewer &owned = *viewer;
        auto callback = [viewer = std::move(viewer)](const auth::Decision &decision) {
            viewer->whole.set_value(viewer->ticket.number() == decision.ticket() && decision.ticket() != 0);
        };
        require(engine.try_submit(auth::Request{"s"}, std::move(callback), &owned.ticket) == auth::Status::ok, "submit");
        require(whole.get(), "the ticket was written before the callable ran");
    }
    for (int number = 0; number < 500; number++) {
        std::promise<bool> cancelled;
        auth::Ticket ticket;
        const auto end = [&](const auth::Decision &) { cancelled.set_value(engine.cancel(ticket)); };
        require(engine.try_watch(auth::Request{"s"}, end, &ticket) == auth::Status::ok, "watch");
        require(cancelled.get_future().get(), "a watch is cancelled by its first decision");
    }
    auth::Ticket kept = engine.submit(auth::Request{"s"}, [](const auth::Decision &) {});
    const auto number = kept.number();
    require(engine.try_submit(auth::Request{""}, [](const auth::Decision &) {}, &kept) == auth::Status::invalid, "no session");
    require(kept.number() == number, "a ticket stays as it was where nothing came of it");

    int said = 0;
    auth::Config next = config(arguments[1]);
    next.set("log.level", "debug").set_log([&](auth::LogLevel, std::string_view) {
        // A reload in here that nobody locked out; this one is refused, and gives back what it was given.
        if (said++ == 0) {
            auth::Config incomplete;
            incomplete.set_log([](auth::LogLevel, std::string_view) {});
            require(engine.try_reload(std::move(incomplete)) == auth::Status::config, "incomplete");
        }
    });
    engine.reload(std::move(next));
    require(said > 0, "the reload was logged");
    std::puts("ok");
}
