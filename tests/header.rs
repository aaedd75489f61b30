//! Both headers compile by themselves, in every language and with every compiler that is promised, and the C header
//! is what `src/ffi` generates.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod toolchain;

use std::path::Path;
use std::process::Command;

use toolchain::{ROOT, WARNINGS, command, read, succeed};

/// Twice, because a header is included from many places; and every macro, because nothing else expands them.
const USES_THE_C_HEADER: &str = r#"
#include <alta_auth.h>
#include <alta_auth.h>
static const alta_auth_str literal = ALTA_AUTH_STR("text");
int use_alta_auth(void);
int use_alta_auth(void) {
    alta_auth_request request = ALTA_AUTH_REQUEST_INIT;
    alta_auth_decision decision = ALTA_AUTH_DECISION_INIT;
    alta_auth_completion completion = ALTA_AUTH_COMPLETION_INIT;
    alta_auth_stats stats = ALTA_AUTH_STATS_INIT;
    request.session_id = literal;
    request.query = alta_auth_str_of("token=1");
    request.flags |= ALTA_AUTH_FRESH;
    return request.struct_size == sizeof request && request.query.len == 7 && literal.len == 4
        && decision.struct_size == sizeof decision && completion.struct_size == sizeof completion
        && completion.decision.struct_size == sizeof decision && stats.struct_size == sizeof stats
        && decision.verdict == ALTA_AUTH_DENY && decision.cause == ALTA_AUTH_CAUSE_NONE
        && stats.causes[15] == 0 && ALTA_AUTH_VERSION_NUMBER > 0;
}
"#;

/// Instantiates every template.
const USES_THE_CPP_HEADER: &str = r#"
#include <alta_auth.hpp>
#include <alta_auth.hpp>
#include <functional>
namespace auth = alta::auth;
static_assert(!std::is_copy_constructible_v<auth::Engine> && std::is_nothrow_move_constructible_v<auth::Engine>);
static_assert(!std::is_copy_constructible_v<auth::Config> && !std::is_copy_constructible_v<auth::Queue>);
static_assert(std::is_copy_constructible_v<auth::OwnedDecision> && std::is_move_assignable_v<auth::OwnedDecision>);
// Who takes one by reference may borrow it; a copy of its borrowing half would outlive the texts.
static_assert(std::is_convertible_v<auth::OwnedDecision &, const auth::Decision &>);
static_assert(!std::is_constructible_v<auth::Decision, auth::OwnedDecision>);
static_assert(!std::is_constructible_v<auth::Decision, const auth::OwnedDecision &>);
static_assert(!std::is_assignable_v<auth::Decision &, auth::OwnedDecision>);
static_assert(!std::is_assignable_v<auth::Decision &, const auth::OwnedDecision &>);
void use_alta_auth(auth::Config config);
void use_alta_auth(auth::Config config) {
    config.set("a", "b").load("c").set_log([](auth::LogLevel, std::string_view) {});
    auth::Engine engine(std::move(config));
    auth::Request request{"id"};
    std::function<void(const auth::Decision &)> function = [](const auth::Decision &) {};
    auth::Ticket ticket = engine.submit(request, function);
    auto only_movable = [owned = std::make_unique<int>(1)](const auth::Decision &decision) { (void)decision.own(); };
    if (engine.try_submit(request, std::move(only_movable), &ticket) != auth::Status::ok || engine.cancel(ticket)) {
        return;
    }
    ticket = engine.watch(request, [](const auth::Decision &decision) { (void)decision.last(); });
    (void)engine.submit_batch({request}, [](std::size_t, const auth::Decision &) {});
    (void)engine.check(request).detail();
    (void)engine.lookup(request);
    engine.revoke("id");
    engine.revoke_user("id");
    engine.revoke_all();
    auth::Queue queue(engine);
    (void)queue.submit(request, nullptr);
    (void)queue.watch(request, nullptr);
    (void)queue.submit_batch({request}, {nullptr});
    (void)queue.reap([](void *, const auth::Decision &) {});
    (void)engine.stats().pending;
    (void)engine.metrics_text();
    auth::Status status;
    (void)auth::Engine::try_make(auth::Config(), status);
    engine.reload(auth::Config());
    (void)engine.drain(std::chrono::seconds(1));
    (void)engine.shutdown(std::chrono::seconds(1));
}
"#;

fn compiles(compiler: &str, language: &str, standard: &str, source: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("use");
    std::fs::write(&file, source).unwrap();
    let include = Path::new(ROOT).join("include");
    succeed(
        command(compiler, WARNINGS)
            .arg(format!("-std={standard}"))
            .arg("-I")
            .arg(include)
            .args(["-x", language, "-fsyntax-only"])
            .arg(&file),
    );
}

#[test]
fn the_c_header_compiles_alone_as_c() {
    for compiler in ["gcc", "clang"] {
        for standard in ["c99", "c11", "c17"] {
            compiles(compiler, "c", standard, USES_THE_C_HEADER);
        }
    }
}

#[test]
fn the_c_header_compiles_alone_as_cpp() {
    for compiler in ["g++", "clang++"] {
        for standard in ["c++11", "c++17"] {
            compiles(compiler, "c++", standard, USES_THE_C_HEADER);
        }
    }
}

#[test]
fn the_cpp_header_compiles_with_every_template_instantiated() {
    for compiler in ["g++", "clang++"] {
        for standard in ["c++17", "c++20"] {
            compiles(compiler, "c++", standard, USES_THE_CPP_HEADER);
        }
    }
}

/// The build script has brought the file up to date by now, so it is git that knows what is committed. What is
/// staged counts as committed. A source archive has no git, and must hold the right file.
#[test]
fn the_committed_c_header_is_the_generated_one() {
    let generated = std::fs::read_to_string(concat!(env!("OUT_DIR"), "/alta_auth.h"))
        .expect("the build script generates the header from src/ffi");
    let committed = if Path::new(ROOT).join(".git").exists() {
        succeed(Command::new("git").current_dir(ROOT).args(["show", ":include/alta_auth.h"]))
    } else {
        read("include/alta_auth.h")
    };
    assert!(committed == generated, "include/alta_auth.h is stale: commit the one that the build wrote");
}
