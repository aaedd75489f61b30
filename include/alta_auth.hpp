// alta_auth.hpp: alta_auth.h for C++17 and later. Header-only; what a call does is said in alta_auth.h.
//
// OWNERSHIP. Config, Engine and Queue own their handle: they are moved, not copied, and free it at the end. An Engine
//   and its Queues may go in either order; a Ticket is worth nothing after its Engine. The Engine's destructor shuts
//   down at once; for an orderly end call drain() or shutdown() first. Never destroy an Engine inside one of its own
//   callbacks.
//
// ERRORS, BY CHOICE. Each call that can fail has two forms: `submit` throws alta::auth::Error (status and text),
//   `try_submit` returns the Status and never throws an Error. FULL is a normal answer under load: where checks are
//   submitted, prefer try_submit, and do for each Status what when_refused() says. Running out of memory throws
//   std::bad_alloc in both forms, before anything was submitted.
//
// TEXT. std::string_view goes in and is copied by the library before the call returns. What a Decision holds is
//   borrowed: valid until the callback returns; after reap, until the next reap on that queue; after lookup, until the
//   next check or lookup on the same thread. own() copies it; check() returns such a copy.
//
// CALLBACKS. Any callable, moved into one allocation that is freed after the call, or, without a call, when submit
//   fails or the check is cancelled. It runs on a thread of the library, and may start before submit has returned.
//   No exception crosses into the library. One that leaves a callable goes to the handler of set_exception_handler();
//   without one std::terminate is called, as for a thread's function: half a callback is a state nobody has thought
//   about, and it must not pass silently. The client of a callback that threw has not been served.
//   In the child of a fork, freeing an engine runs no callback, and the parent's callables are not destroyed, those of its
//   log among them.
//
// THREADS. Every member of Engine and Queue may be called from any thread, except construction, move and destruction.

#ifndef ALTA_AUTH_HPP
#define ALTA_AUTH_HPP

#include "alta_auth.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace alta::auth {

// The codes of alta_auth.h. A newer library may return numbers that have no name here.

enum class [[nodiscard]] Status : std::int32_t {
    ok = ALTA_AUTH_OK,
    invalid = ALTA_AUTH_ERR_INVALID,
    config = ALTA_AUTH_ERR_CONFIG,
    full = ALTA_AUTH_ERR_FULL,
    closed = ALTA_AUTH_ERR_CLOSED,
    timeout = ALTA_AUTH_ERR_TIMEOUT,
    not_found = ALTA_AUTH_ERR_NOT_FOUND,
    thread = ALTA_AUTH_ERR_THREAD,
    forked = ALTA_AUTH_ERR_FORKED,
    unsupported = ALTA_AUTH_ERR_UNSUPPORTED,
    system = ALTA_AUTH_ERR_SYSTEM,
    internal = ALTA_AUTH_ERR_INTERNAL,
};

enum class Verdict : std::int32_t { deny = ALTA_AUTH_DENY, allow = ALTA_AUTH_ALLOW };

enum class Origin : std::int32_t {
    backend = ALTA_AUTH_ORIGIN_BACKEND,
    memory = ALTA_AUTH_ORIGIN_MEMORY,
    last_known = ALTA_AUTH_ORIGIN_LAST_KNOWN,
    default_action = ALTA_AUTH_ORIGIN_DEFAULT,
};

enum class Cause : std::int32_t {
    none = ALTA_AUTH_CAUSE_NONE,
    resolve = ALTA_AUTH_CAUSE_RESOLVE,
    connect = ALTA_AUTH_CAUSE_CONNECT,
    tls = ALTA_AUTH_CAUSE_TLS,
    timeout = ALTA_AUTH_CAUSE_TIMEOUT,
    reset = ALTA_AUTH_CAUSE_RESET,
    protocol = ALTA_AUTH_CAUSE_PROTOCOL,
    status = ALTA_AUTH_CAUSE_STATUS,
    breaker_open = ALTA_AUTH_CAUSE_BREAKER_OPEN,
    overload = ALTA_AUTH_CAUSE_OVERLOAD,
    shutdown = ALTA_AUTH_CAUSE_SHUTDOWN,
    internal = ALTA_AUTH_CAUSE_INTERNAL,
};

enum class LogLevel : std::int32_t {
    error = ALTA_AUTH_LOG_ERROR,
    warn = ALTA_AUTH_LOG_WARN,
    info = ALTA_AUTH_LOG_INFO,
    debug = ALTA_AUTH_LOG_DEBUG,
};

inline const char *name(Status status) noexcept { return alta_auth_status_name(static_cast<std::int32_t>(status)); }
inline const char *name(Verdict verdict) noexcept { return alta_auth_verdict_name(static_cast<std::int32_t>(verdict)); }
inline const char *name(Origin origin) noexcept { return alta_auth_origin_name(static_cast<std::int32_t>(origin)); }
inline const char *name(Cause cause) noexcept { return alta_auth_cause_name(static_cast<std::int32_t>(cause)); }

class Error : public std::runtime_error {
public:
    Error(Status status, const std::string &text)
        : std::runtime_error(text.empty() ? std::string(name(status)) : name(status) + (": " + text)), status_(status) {}

    Status status() const noexcept { return status_; }

private:
    Status status_;
};

/// What leaves a callback goes there; may be called on several threads at once. NULL restores std::terminate.
/// Returns the handler before. For the whole process, as std::set_terminate.
using ExceptionHandler = void (*)(std::exception_ptr) noexcept;

namespace detail {

inline std::atomic<ExceptionHandler> exception_handler{nullptr};

// Called in a catch block.
inline void hand_over_exception() noexcept {
    if (const ExceptionHandler handler = exception_handler.load()) {
        handler(std::current_exception());
    } else {
        std::terminate();
    }
}

inline std::string_view view(alta_auth_str text) noexcept {
    return text.len == 0 ? std::string_view() : std::string_view(text.ptr, text.len);
}

inline alta_auth_str str(std::string_view text) noexcept {
    alta_auth_str out = ALTA_AUTH_STR_INIT;
    out.ptr = text.data();
    out.len = text.size();
    return out;
}

// 0 stays 0; what is negative or too long is clamped.
inline std::uint32_t milliseconds(std::chrono::milliseconds time) noexcept {
    const auto count = std::clamp<std::chrono::milliseconds::rep>(time.count(), 0, UINT32_MAX);
    return static_cast<std::uint32_t>(count);
}

inline void require(Status status, const std::string &text = std::string()) {
    if (status != Status::ok) {
        throw Error(status, text);
    }
}

template <auto Free>
struct Freed {
    template <typename T>
    void operator()(T *handle) const noexcept {
        Free(handle);
    }
};

using ErrorText = std::array<char, 512>;

} // namespace detail

inline ExceptionHandler set_exception_handler(ExceptionHandler handler) noexcept {
    return detail::exception_handler.exchange(handler);
}

/// A check. The views must live until the call that it is passed to returns.
struct Request {
    std::string_view session_id; // required
    std::string_view ip = {};
    std::string_view path = {};  // as it will be served, after normalisation; no query
    std::string_view query = {}; // the client's raw query, without '?'
    std::string_view origin = {};
    std::string_view user_agent = {};
    std::string_view scope = {};
    std::chrono::milliseconds timeout{0}; // 0: the configured one; a negative one is over at once: 1 ms
    bool fresh = false;                   // do not answer from memory, ask the backend

    alta_auth_request raw() const noexcept {
        alta_auth_request raw = ALTA_AUTH_REQUEST_INIT;
        raw.flags = fresh ? std::uint32_t{ALTA_AUTH_FRESH} : 0U;
        raw.session_id = detail::str(session_id);
        raw.ip = detail::str(ip);
        raw.path = detail::str(path);
        raw.query = detail::str(query);
        raw.origin = detail::str(origin);
        raw.user_agent = detail::str(user_agent);
        raw.scope = detail::str(scope);
        raw.timeout_ms = timeout.count() < 0 ? 1U : detail::milliseconds(timeout);
        return raw;
    }
};

class OwnedDecision;

/// An answer. Borrows its texts, see TEXT above; cheap to copy.
class Decision {
public:
    // A callback's has the library's size: what this program knows beyond it is absent.
    explicit Decision(const alta_auth_decision &raw) noexcept : raw_() {
        std::memcpy(&raw_, &raw, std::min<std::size_t>(raw.struct_size, sizeof raw_));
        raw_.struct_size = sizeof raw_;
    }
    // An owned one is taken by reference, or copied as what it is: its texts would not live as long as this.
    Decision(const OwnedDecision &) = delete;
    Decision &operator=(const OwnedDecision &) = delete;

    bool allowed() const noexcept { return raw_.verdict == ALTA_AUTH_ALLOW; }
    Verdict verdict() const noexcept { return allowed() ? Verdict::allow : Verdict::deny; }
    Origin origin() const noexcept { return static_cast<Origin>(raw_.origin); }
    Cause cause() const noexcept { return static_cast<Cause>(raw_.cause); }
    bool coalesced() const noexcept { return (raw_.flags & std::uint32_t{ALTA_AUTH_COALESCED}) != 0; }
    bool unique() const noexcept { return (raw_.flags & std::uint32_t{ALTA_AUTH_UNIQUE}) != 0; }
    /// Of a watch: it has ended, nothing more is delivered.
    bool last() const noexcept { return (raw_.flags & std::uint32_t{ALTA_AUTH_LAST}) != 0; }
    std::uint32_t http_status() const noexcept { return raw_.http_status; }
    std::chrono::milliseconds ttl() const noexcept { return std::chrono::milliseconds(raw_.ttl_ms); }
    std::uint32_t max_sessions() const noexcept { return raw_.max_sessions; }
    std::chrono::nanoseconds latency() const noexcept {
        return std::chrono::nanoseconds(static_cast<std::chrono::nanoseconds::rep>(raw_.latency_ns));
    }
    std::uint64_t ticket() const noexcept { return raw_.ticket; }
    std::string_view user_id() const noexcept { return detail::view(raw_.user_id); }
    std::string_view location() const noexcept { return detail::view(raw_.location); }
    std::string_view detail() const noexcept { return auth::detail::view(raw_.detail); }

    const alta_auth_decision &raw() const noexcept { return raw_; }
    OwnedDecision own() const;

protected:
    alta_auth_decision raw_;
};

/// A decision whose texts live as long as it, or any copy of it, does. May be passed on as a `const Decision &`.
class OwnedDecision : public Decision {
public:
    explicit OwnedDecision(const Decision &borrowed) : Decision(borrowed) {
        auto texts = std::make_shared<std::string>();
        texts->append(user_id()).append(location()).append(Decision::detail());
        const char *from = texts->data();
        for (alta_auth_str *text : {&raw_.user_id, &raw_.location, &raw_.detail}) {
            text->ptr = from;
            from += text->len;
        }
        texts_ = std::move(texts);
    }

private:
    std::shared_ptr<const std::string> texts_;
};

inline OwnedDecision Decision::own() const { return OwnedDecision(*this); }

/// One item that a queue delivers.
struct Completion : alta_auth_completion {
    Completion() noexcept : alta_auth_completion(ALTA_AUTH_COMPLETION_INIT) {}
    Decision answer() const noexcept { return Decision(decision); }
};
static_assert(sizeof(Completion) == sizeof(alta_auth_completion), "an array of one is an array of the other");

struct Stats : alta_auth_stats {
    Stats() noexcept : alta_auth_stats(ALTA_AUTH_STATS_INIT) {}
};

namespace detail {
class Named;
}

/// Names a pending check or a watch, to cancel it. A plain value; letting go of it cancels nothing.
class Ticket {
public:
    Ticket() = default;
    std::uint64_t number() const noexcept { return number_; }
    explicit operator bool() const noexcept { return number_ != 0; }

private:
    friend class Engine;
    friend class detail::Named;

    const void *engine_ = nullptr;
    std::uint64_t number_ = 0;
    // The callable, which is whoever's turns out to be the last word on the check: the library's, or the canceller's.
    void *box_ = nullptr;
    void (*drop_)(void *) noexcept = nullptr;
};

namespace detail {

// A ticket that is whole before the decision is there, but for its number, which the library writes by then. As it was, if
// nothing comes of it. After keep() it is not touched: it may be gone.
class Named {
public:
    Named(Ticket *ticket, const void *engine, void *box, void (*drop)(void *) noexcept) noexcept : ticket_(ticket) {
        if (ticket_ != nullptr) {
            before_ = *ticket_;
            ticket_->engine_ = engine;
            ticket_->number_ = 0;
            ticket_->box_ = box;
            ticket_->drop_ = drop;
        }
    }
    Named(const Named &) = delete;
    Named &operator=(const Named &) = delete;
    ~Named() {
        if (ticket_ != nullptr) {
            *ticket_ = before_;
        }
    }

    std::uint64_t *number() const noexcept { return ticket_ != nullptr ? &ticket_->number_ : nullptr; }
    void keep() noexcept { ticket_ = nullptr; }

private:
    Ticket *ticket_;
    Ticket before_;
};

} // namespace detail

/// Keys and values as text. Consumed by the engine that is made of it, and untouched if none could be made.
class Config {
public:
    Config() : handle_(alta_auth_config_new()) {
        if (handle_ == nullptr) {
            throw Error(Status::system, "no configuration");
        }
    }

    /// Throws an Error that says which key, and why.
    Config &set(std::string_view key, std::string_view value) {
        std::string text;
        detail::require(try_set(key, value, &text), text);
        return *this;
    }

    Status try_set(std::string_view key, std::string_view value, std::string *text = nullptr) {
        // Over there a text ends at its first NUL: refuse it rather than set half of it.
        if (key.find('\0') != std::string_view::npos || value.find('\0') != std::string_view::npos) {
            if (text != nullptr) {
                *text = "a key or value with a NUL";
            }
            return Status::invalid;
        }
        const std::string c_key(key);
        const std::string c_value(value);
        detail::ErrorText error{};
        const auto status = alta_auth_config_set(handle_.get(), c_key.c_str(), c_value.c_str(), error.data(), error.size());
        return said(status, error, text);
    }

    Config &load(const std::string &toml_path) {
        std::string text;
        detail::require(try_load(toml_path, &text), text);
        return *this;
    }

    Status try_load(const std::string &toml_path, std::string *text = nullptr) {
        detail::ErrorText error{};
        return said(alta_auth_config_load(handle_.get(), toml_path.c_str(), error.data(), error.size()), error, text);
    }

    /// `log(LogLevel, std::string_view)`, on any thread of the library, several at once if there are several. It lives
    /// as long as the engine made of this configuration, or turned to it: after a reload to another log, a line may still
    /// come here from a thread that was on its way.
    template <typename Log>
    Config &set_log(Log &&log) {
        using Callable = std::decay_t<Log>;
        static_assert(std::is_invocable_v<Callable &, LogLevel, std::string_view>);
        auto kept = std::make_shared<Callable>(std::forward<Log>(log));
        kept_.reserve(kept_.size() + 1);
        detail::require(Status{alta_auth_config_set_log(handle_.get(), &logged<Callable>, kept.get())});
        // The one before is kept as well: it may have been handed on already.
        kept_.push_back(std::move(kept));
        return *this;
    }

    /// Plain functions, as in C: `start` runs on each thread of the library before its first callback, `stop` after
    /// its last. They must not throw.
    Config &set_thread_hooks(void (*start)(void *), void (*stop)(void *), void *user_data) {
        detail::require(Status{alta_auth_config_set_thread_hooks(handle_.get(), start, stop, user_data)});
        return *this;
    }

    alta_auth_config *raw() const noexcept { return handle_.get(); }

private:
    friend class Engine;

    static Status said(std::int32_t status, const detail::ErrorText &error, std::string *text) {
        if (status != ALTA_AUTH_OK && text != nullptr) {
            *text = error.data();
        }
        return Status{status};
    }

    template <typename Callable>
    static void logged(void *user_data, std::int32_t level, alta_auth_str message) noexcept {
        try {
            (*static_cast<Callable *>(user_data))(static_cast<LogLevel>(level), detail::view(message));
        } catch (...) {
            detail::hand_over_exception();
        }
    }

    std::unique_ptr<alta_auth_config, detail::Freed<alta_auth_config_free>> handle_;
    std::vector<std::shared_ptr<void>> kept_;
};

class Engine {
public:
    /// Consumes the configuration, on success only. Throws an Error that says what is wrong with it.
    explicit Engine(Config &&config) : kept_(std::make_unique<Kept>()) {
        alta_auth_engine *engine = nullptr;
        detail::ErrorText error{};
        const Status status{alta_auth_engine_new(config.raw(), &engine, error.data(), error.size())};
        detail::require(status, error.data());
        handle_.reset(engine);
        static_cast<void>(config.handle_.release());
        kept_->objects = std::move(config.kept_);
    }

    /// As the constructor, without an Error: empty, and `status` and `text` say why.
    static std::optional<Engine> try_make(Config &&config, Status &status, std::string *text = nullptr) {
        try {
            std::optional<Engine> engine(std::in_place, std::move(config));
            status = Status::ok;
            return engine;
        } catch (const Error &error) {
            status = error.status();
            if (text != nullptr) {
                *text = error.what();
            }
            return std::nullopt;
        }
    }

    Engine(Engine &&) noexcept = default;
    ~Engine() { leave_to_parent(); }

    Engine &operator=(Engine &&other) noexcept {
        leave_to_parent();
        // The log callables outlive the handle that calls them.
        handle_ = std::move(other.handle_);
        kept_ = std::move(other.kept_);
        return *this;
    }

    /// Consumes the configuration, on success only.
    void reload(Config &&config) {
        std::string text;
        detail::require(try_reload(std::move(config), &text), text);
    }

    Status try_reload(Config &&config, std::string *text = nullptr) {
        {
            // The log before may be running; what an engine was ever given it keeps. Before it is given it, and without a lock
            // while it is: what it logs may come back here.
            const std::lock_guard<std::mutex> lock(kept_->mutex);
            kept_->objects.insert(kept_->objects.end(), config.kept_.begin(), config.kept_.end());
        }
        detail::ErrorText error{};
        const auto status = alta_auth_engine_reload(handle_.get(), config.raw(), error.data(), error.size());
        if (status == ALTA_AUTH_OK) {
            static_cast<void>(config.handle_.release());
            config.kept_.clear();
        } else {
            const std::lock_guard<std::mutex> lock(kept_->mutex);
            for (const auto &object : config.kept_) {
                // Another configuration's may lie behind it.
                const auto mine = std::find(kept_->objects.begin(), kept_->objects.end(), object);
                kept_->objects.erase(mine);
            }
        }
        return Config::said(status, error, text);
    }

    /// Hands over a check; `callback(const Decision &)` is called once, on a thread of the library. `*ticket` is written before
    /// that: it may be in what the callback owns. A ticket that is returned is there only afterwards.
    template <typename Callback>
    Ticket submit(const Request &request, Callback &&callback) {
        Ticket ticket;
        detail::require(try_submit(request, std::forward<Callback>(callback), &ticket));
        return ticket;
    }

    template <typename Callback>
    Status try_submit(const Request &request, Callback &&callback, Ticket *ticket = nullptr) {
        using Callable = std::decay_t<Callback>;
        static_assert(std::is_invocable_v<Callable &, const Decision &>, "callback(const Decision &)");
        auto box = std::make_unique<Callable>(std::forward<Callback>(callback));
        const alta_auth_request raw = request.raw();
        detail::Named named(ticket, handle_.get(), box.get(), &drop<Callable>);
        const Status status{alta_auth_submit(handle_.get(), &raw, &decided<Callable>, box.get(), named.number())};
        if (status == Status::ok) {
            // From here the box is the library's, and may be gone already, with the ticket if that was in it.
            static_cast<void>(box.release());
            named.keep();
        }
        return status;
    }

    /// Watches a connection that stays open; `callback(const Decision &)` is called for the first decision and each change
    /// of it, one call at a time, until the ticket is cancelled (also from inside the callback) or a decision is `last()`.
    template <typename Callback>
    Ticket watch(const Request &request, Callback &&callback) {
        Ticket ticket;
        detail::require(try_watch(request, std::forward<Callback>(callback), &ticket));
        return ticket;
    }

    template <typename Callback>
    Status try_watch(const Request &request, Callback &&callback, Ticket *ticket = nullptr) {
        using Callable = std::decay_t<Callback>;
        static_assert(std::is_invocable_v<Callable &, const Decision &>, "callback(const Decision &)");
        auto box = std::make_unique<Watched<Callable>>(std::forward<Callback>(callback));
        const alta_auth_request raw = request.raw();
        detail::Named named(ticket, handle_.get(), box.get(), &drop_watched<Callable>);
        const Status status{alta_auth_watch(handle_.get(), &raw, &told<Callable>, box.get(), named.number())};
        if (status == Status::ok) {
            static_cast<void>(box.release());
            named.keep();
        }
        return status;
    }

    /// Hands over many with one wake-up; `callback(index, const Decision &)` is called once for each that was
    /// accepted, on several threads at once if there are several. Returns how many were; `statuses` says which were not.
    template <typename Callback>
    std::size_t submit_batch(const std::vector<Request> &requests, Callback &&callback,
                             std::vector<Status> *statuses = nullptr) {
        using Callable = std::decay_t<Callback>;
        static_assert(std::is_invocable_v<Callable &, std::size_t, const Decision &>, "callback(size_t, const Decision &)");
        const std::size_t count = requests.size();
        auto batch = std::make_unique<Batch<Callable>>(std::forward<Callback>(callback), count);
        std::vector<void *> user_data(count);
        for (std::size_t index = 0; index < count; index++) {
            batch->items[index] = {batch.get(), index};
            user_data[index] = &batch->items[index];
        }
        const std::vector<alta_auth_request> raw = raw_requests(requests);
        std::vector<std::int32_t> codes(count, ALTA_AUTH_ERR_INTERNAL);
        if (statuses != nullptr) {
            statuses->assign(count, Status::internal);
        }
        Batch<Callable> *const shared = batch.release();
        const std::size_t accepted =
            alta_auth_submit_batch(handle_.get(), raw.data(), count, &item_decided<Callable>, user_data.data(), codes.data());
        // The refused will not be delivered, and this call's own share ends here.
        shared->done(count - accepted + 1);
        if (statuses != nullptr) {
            std::transform(codes.begin(), codes.end(), statuses->begin(), [](std::int32_t code) { return Status{code}; });
        }
        return accepted;
    }

    /// Waits for the decision. There always is one if the check was accepted: after a timeout the default action.
    OwnedDecision check(const Request &request) {
        std::optional<OwnedDecision> decision;
        detail::require(try_check(request, decision));
        return *std::move(decision);
    }

    Status try_check(const Request &request, std::optional<OwnedDecision> &decision) {
        const alta_auth_request raw = request.raw();
        alta_auth_decision out = ALTA_AUTH_DECISION_INIT;
        const Status status{alta_auth_check(handle_.get(), &raw, &out)};
        if (status == Status::ok) {
            decision.emplace(Decision(out));
        }
        return status;
    }

    /// What is remembered, at once and without asking; empty if nothing is.
    std::optional<Decision> lookup(const Request &request) {
        std::optional<Decision> decision;
        const Status status = try_lookup(request, decision);
        if (status != Status::not_found) {
            detail::require(status);
        }
        return decision;
    }

    Status try_lookup(const Request &request, std::optional<Decision> &decision) {
        const alta_auth_request raw = request.raw();
        alta_auth_decision out = ALTA_AUTH_DECISION_INIT;
        const Status status{alta_auth_lookup(handle_.get(), &raw, &out)};
        if (status == Status::ok) {
            decision.emplace(out);
        }
        return status;
    }

    /// True: the check will never be delivered, and its callable is destroyed. False: it was delivered, is being
    /// delivered or is about to be, and the callable may be running now. Of a watch: false if it has ended, or if its callable
    /// is running on another thread; then one more decision follows that is `last()`.
    bool cancel(const Ticket &ticket) noexcept {
        if (ticket.engine_ != handle_.get() || alta_auth_cancel(handle_.get(), ticket.number_) != ALTA_AUTH_OK) {
            return false;
        }
        if (ticket.drop_ != nullptr) {
            ticket.drop_(ticket.box_);
        }
        return true;
    }

    /// Forgets at once what is remembered of a session.
    void revoke(std::string_view session_id) { detail::require(try_revoke(session_id)); }

    Status try_revoke(std::string_view session_id) noexcept {
        return Status{alta_auth_revoke(handle_.get(), detail::str(session_id))};
    }

    /// Forgets at once all that was said of a user (`X-UserId`).
    void revoke_user(std::string_view user_id) { detail::require(try_revoke_user(user_id)); }

    Status try_revoke_user(std::string_view user_id) noexcept {
        return Status{alta_auth_revoke_user(handle_.get(), detail::str(user_id))};
    }

    /// Forgets everything at once.
    void revoke_all() { detail::require(try_revoke_all()); }

    Status try_revoke_all() noexcept { return Status{alta_auth_revoke_all(handle_.get())}; }

    /// Waits until nothing is pending: true. False if that took longer.
    bool drain(std::chrono::milliseconds timeout) { return ended(try_drain(timeout)); }

    Status try_drain(std::chrono::milliseconds timeout) noexcept {
        return Status{alta_auth_engine_drain(handle_.get(), detail::milliseconds(timeout))};
    }

    /// Stops accepting and waits as drain; what is left then gets the default action: false.
    bool shutdown(std::chrono::milliseconds timeout) { return ended(try_shutdown(timeout)); }

    Status try_shutdown(std::chrono::milliseconds timeout) noexcept {
        return Status{alta_auth_engine_shutdown(handle_.get(), detail::milliseconds(timeout))};
    }

    /// The operator's default action, for a check that was not accepted.
    Verdict default_action() const noexcept {
        return alta_auth_default_action(handle_.get()) == ALTA_AUTH_ALLOW ? Verdict::allow : Verdict::deny;
    }

    /// What to do with a client whose check was not accepted: a check that cannot be asked refuses, an engine that
    /// cannot take it gives the default action, a defect refuses.
    Verdict when_refused(Status status) const noexcept {
        switch (status) {
        case Status::full:
        case Status::closed:
        case Status::system:
            return default_action();
        default:
            return Verdict::deny;
        }
    }

    Stats stats() const {
        Stats stats;
        detail::require(Status{alta_auth_stats_read(handle_.get(), &stats)});
        return stats;
    }

    /// In Prometheus' text format.
    std::string metrics_text() const {
        std::string text;
        std::size_t full = alta_auth_metrics_text(handle_.get(), nullptr, 0);
        // The numbers grow while they are read.
        while (full > text.size()) {
            text.resize(full);
            full = alta_auth_metrics_text(handle_.get(), text.data(), text.size() + 1);
        }
        text.resize(full);
        return text;
    }

    alta_auth_engine *raw() const noexcept { return handle_.get(); }

private:
    friend class Queue;

    struct Kept {
        std::mutex mutex;
        std::vector<std::shared_ptr<void>> objects;
    };

    // One allocation for the callables of a batch, freed by whoever is last.
    template <typename Callable>
    struct Batch {
        struct Item {
            Batch *batch;
            std::size_t index;
        };

        template <typename Callback>
        Batch(Callback &&with, std::size_t count) : callable(std::forward<Callback>(with)), left(count + 1), items(count) {}

        void done(std::size_t shares) noexcept {
            if (left.fetch_sub(shares) == shares) {
                delete this;
            }
        }

        Callable callable;
        std::atomic<std::size_t> left;
        std::vector<Item> items;
    };

    static std::vector<alta_auth_request> raw_requests(const std::vector<Request> &requests) {
        std::vector<alta_auth_request> raw;
        raw.reserve(requests.size());
        for (const Request &request : requests) {
            raw.push_back(request.raw());
        }
        return raw;
    }

    // In the child of a fork, where nothing of the parent's engine is destroyed. No ticket is 0.
    void leave_to_parent() noexcept {
        if (handle_ != nullptr && alta_auth_cancel(handle_.get(), 0) == ALTA_AUTH_ERR_FORKED) {
            static_cast<void>(kept_.release());
        }
    }

    static bool ended(Status status) {
        if (status != Status::timeout) {
            detail::require(status);
        }
        return status == Status::ok;
    }

    template <typename Callable>
    static void drop(void *box) noexcept {
        delete static_cast<Callable *>(box);
    }

    template <typename Callable>
    static void decided(void *user_data, const alta_auth_decision *decision) noexcept {
        const std::unique_ptr<Callable> box(static_cast<Callable *>(user_data));
        try {
            (*box)(Decision(*decision));
        } catch (...) {
            detail::hand_over_exception();
        }
    }

    // The callable of a watch, which may cancel the watch while it runs.
    template <typename Callable>
    struct Watched {
        template <typename Callback>
        explicit Watched(Callback &&with) : callable(std::forward<Callback>(with)) {}

        Callable callable;
        bool running = false;
        bool over = false;
    };

    template <typename Callable>
    static void drop_watched(void *box) noexcept {
        auto *const watched = static_cast<Watched<Callable> *>(box);
        if (watched->running) {
            watched->over = true;
        } else {
            delete watched;
        }
    }

    template <typename Callable>
    static void told(void *user_data, const alta_auth_decision *decision) noexcept {
        auto *const watched = static_cast<Watched<Callable> *>(user_data);
        watched->running = true;
        try {
            watched->callable(Decision(*decision));
        } catch (...) {
            detail::hand_over_exception();
        }
        watched->running = false;
        if (watched->over || Decision(*decision).last()) {
            delete watched;
        }
    }

    template <typename Callable>
    static void item_decided(void *user_data, const alta_auth_decision *decision) noexcept {
        const auto item = *static_cast<typename Batch<Callable>::Item *>(user_data);
        try {
            item.batch->callable(item.index, Decision(*decision));
        } catch (...) {
            detail::hand_over_exception();
        }
        item.batch->done(1);
    }

    // In this order: the handle is freed first, and its free still logs.
    std::unique_ptr<Kept> kept_;
    std::unique_ptr<alta_auth_engine, detail::Freed<alta_auth_engine_free>> handle_;
};

/// A completion queue: one per host thread, polled through its descriptor. What a check's `user_data` points to stays
/// the host's; the queue's end drops what it has not delivered.
class Queue {
public:
    explicit Queue(Engine &engine) : engine_(engine.raw()) {
        alta_auth_queue *queue = nullptr;
        detail::require(Status{alta_auth_queue_new(engine.raw(), &queue)});
        handle_.reset(queue);
    }

    /// Readable while completions wait. Only to be polled: the library alone reads it.
    int fd() const noexcept { return alta_auth_queue_fd(handle_.get()); }

    /// `*ticket` is written before the decision can be reaped, and not after: it may be in what `user_data` points to. A ticket
    /// that is returned is there only afterwards.
    Ticket submit(const Request &request, void *user_data) {
        Ticket ticket;
        detail::require(try_submit(request, user_data, &ticket));
        return ticket;
    }

    Status try_submit(const Request &request, void *user_data, Ticket *ticket = nullptr) noexcept {
        return hand_over(&alta_auth_queue_submit, request, user_data, ticket);
    }

    /// The decisions come out of `reap` like a check's: the first one and each change, until one is `last()` or the ticket
    /// is cancelled.
    Ticket watch(const Request &request, void *user_data) {
        Ticket ticket;
        detail::require(try_watch(request, user_data, &ticket));
        return ticket;
    }

    Status try_watch(const Request &request, void *user_data, Ticket *ticket = nullptr) noexcept {
        return hand_over(&alta_auth_queue_watch, request, user_data, ticket);
    }

    /// `user_data` has one element a request, or is empty. Returns how many were accepted; `statuses` says which not.
    std::size_t submit_batch(const std::vector<Request> &requests, const std::vector<void *> &user_data,
                             std::vector<Status> *statuses = nullptr) {
        if (!user_data.empty() && user_data.size() != requests.size()) {
            throw Error(Status::invalid, "one user_data a request, or none");
        }
        const std::vector<alta_auth_request> raw = Engine::raw_requests(requests);
        std::vector<std::int32_t> codes(requests.size(), ALTA_AUTH_ERR_INTERNAL);
        if (statuses != nullptr) {
            statuses->assign(requests.size(), Status::internal);
        }
        const std::size_t accepted =
            alta_auth_queue_submit_batch(handle_.get(), raw.data(), raw.size(),
                                         user_data.empty() ? nullptr : user_data.data(), codes.data());
        if (statuses != nullptr) {
            std::transform(codes.begin(), codes.end(), statuses->begin(), [](std::int32_t code) { return Status{code}; });
        }
        return accepted;
    }

    /// Takes at most `max` completions, never waits. Their texts are valid until the next reap.
    std::size_t reap(Completion *out, std::size_t max) noexcept {
        return alta_auth_queue_reap(handle_.get(), out, max);
    }

    /// Takes at most about `max` and calls `deliver(void *user_data, const Decision &)` for each. If it throws, the
    /// others that were taken with it are delivered first, then the first exception is thrown.
    template <typename Deliver>
    std::size_t reap(Deliver &&deliver, std::size_t max = 256) {
        std::array<Completion, 32> taken;
        std::exception_ptr thrown;
        std::size_t total = 0;
        while (total < max && !thrown) {
            const std::size_t count = reap(taken.data(), taken.size());
            for (std::size_t index = 0; index < count; index++) {
                try {
                    deliver(taken[index].user_data, taken[index].answer());
                } catch (...) {
                    thrown = thrown ? thrown : std::current_exception();
                }
            }
            total += count;
            if (count < taken.size()) {
                break;
            }
        }
        if (thrown) {
            std::rethrow_exception(thrown);
        }
        return total;
    }

    alta_auth_queue *raw() const noexcept { return handle_.get(); }

private:
    using HandOver = std::int32_t (*)(alta_auth_queue *, const alta_auth_request *, void *, std::uint64_t *);

    Status hand_over(HandOver call, const Request &request, void *user_data, Ticket *ticket) noexcept {
        const alta_auth_request raw = request.raw();
        detail::Named named(ticket, engine_, nullptr, nullptr);
        const Status status{call(handle_.get(), &raw, user_data, named.number())};
        if (status == Status::ok) {
            // From here the ticket may be gone, with what its decision was reaped for.
            named.keep();
        }
        return status;
    }

    const alta_auth_engine *engine_;
    std::unique_ptr<alta_auth_queue, detail::Freed<alta_auth_queue_free>> handle_;
};

inline std::string_view version() noexcept { return alta_auth_version(); }

} // namespace alta::auth

#endif // ALTA_AUTH_HPP
