// The ticket of what a queue delivers lies in the connection, which goes when its decision is reaped: it is whole by then, and
// not written afterwards.
//
//     queued URL
#include <alta_auth.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace auth = alta::auth;

static void require(bool holds, const char *what) {
    if (!holds) {
        std::printf("not so: %s\n", what);
        std::exit(1);
    }
}

struct Connection {
    ~Connection() { gone++; }

    auth::Ticket ticket;
    static inline std::atomic<int> gone{0};
};

constexpr int CONNECTIONS = 5000;

// What a thread submits, another reaps. What is remembered comes out of the queue while submit returns.
template <typename Submit>
static void each(auth::Engine &engine, auth::Queue &queue, Submit submit) {
    Connection::gone = 0;
    std::thread reaper([&] {
        while (Connection::gone < CONNECTIONS) {
            queue.reap([&](void *user_data, const auth::Decision &decision) {
                auto *const connection = static_cast<Connection *>(user_data);
                require(decision.ticket() != 0, "a decision has a ticket");
                require(connection->ticket.number() == decision.ticket(), "the ticket was written before the decision came out");
                engine.cancel(connection->ticket); // a watch would go on
                delete connection;
            });
        }
    });
    for (int number = 0; number < CONNECTIONS; number++) {
        auto *const connection = new Connection;
        require(submit(connection, &connection->ticket) == auth::Status::ok, "it is accepted");
    }
    reaper.join();
}

int main(int, char **arguments) {
    auth::Config config;
    config.set("backend.url", arguments[1]).set("default_action", "deny");
    auth::Engine engine(std::move(config));
    auth::Queue queue(engine);
    static_cast<void>(engine.check(auth::Request{"s"}));

    const auto submit = [&](void *user_data, auth::Ticket *ticket) {
        return queue.try_submit(auth::Request{"s"}, user_data, ticket);
    };
    each(engine, queue, submit);
    const auto watch = [&](void *user_data, auth::Ticket *ticket) {
        return queue.try_watch(auth::Request{"s"}, user_data, ticket);
    };
    each(engine, queue, watch);

    Connection connection;
    require(submit(&connection, &connection.ticket) == auth::Status::ok, "it is accepted");
    const auto number = connection.ticket.number();
    require(queue.try_submit(auth::Request{""}, nullptr, &connection.ticket) == auth::Status::invalid, "no session");
    require(queue.try_watch(auth::Request{""}, nullptr, &connection.ticket) == auth::Status::invalid, "no session");
    require(connection.ticket.number() == number, "a ticket stays as it was where nothing came of it");
    require(engine.cancel(connection.ticket), "it names the check");
    std::puts("ok");
}
