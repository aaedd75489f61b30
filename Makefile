# Everything a new machine needs: `make demo` to see it work, `make test` to know that it does.

CARGO ?= cargo
# Who links the library builds none of this; the command's tests need it.
FEATURES = --features command

.DEFAULT_GOAL := help
.PHONY: help demo test setup toolchain valgrind check unit memcheck sanitize soak miri fuzz bench-abi bench-recovery

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: toolchain ## build the command and watch it decide 100,000 checks, an outage among them
	$(CARGO) run --release --locked $(FEATURES) --bin alta-auth -- demo

test: setup check unit ## all that must hold: set-up, format, lints, documentation, tests

setup: ## install what the tests need and this machine lacks
	@tests/setup

toolchain:
	@tests/setup toolchain

valgrind:
	@tests/setup valgrind

check: toolchain ## format, lints and documentation, each without a warning
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets $(FEATURES) -- -D warnings
	$(CARGO) clippy --locked --lib $(FEATURES) --features steps -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps $(FEATURES)
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) fmt --check --all --manifest-path benches/Cargo.toml
	$(CARGO) rustc --locked --profile check --lib --features tokio/test-util -- --cfg fuzzing -D warnings

# cargo-nextest gives each test its own process and does not run the examples in the documentation.
unit: setup ## every test, with cargo-nextest if it is there
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) test --locked $(FEATURES) --doc && $(CARGO) nextest run --locked $(FEATURES); \
	else \
		set -x; $(CARGO) test --locked $(FEATURES); \
	fi

memcheck: valgrind ## the C test of the contract under valgrind
	@tests/sanitize memcheck

sanitize: ## the same with AddressSanitizer and ThreadSanitizer; needs nightly Rust with rust-src
	@status=0; for tool in address thread; do tests/sanitize $$tool || status=1; done; exit $$status

soak: toolchain ## ten minutes of faults, reloads, revocations and new engines; ALTA_AUTH_SOAK=seconds, ALTA_AUTH_SEED=number
	ALTA_AUTH_SOAK=$${ALTA_AUTH_SOAK:-600} $(CARGO) test --release --locked $(FEATURES) --test soak -- --nocapture

miri: ## the pointers of the C ABI under miri; needs nightly Rust with miri
	$(CARGO) +nightly miri test --locked --lib ffi::pointers

fuzz: ## each fuzz target for FUZZ_SECONDS (60) from its corpus; needs nightly Rust, installs cargo-fuzz
	@tests/setup fuzz
	@fuzz/run

bench-abi: valgrind ## what the C ABI costs over the Rust API
	@benches/abi_overhead/measure

bench-recovery: toolchain ## an outage of 60 s under full load, and how the backend is found again; ALTA_AUTH_OUTAGE=seconds
	$(CARGO) bench --locked --bench recovery

# install, uninstall, optimised, deb
include packaging/install.mk
# bench, bench-quick
include benches/bench.mk
