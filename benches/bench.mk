# make bench, bench-quick, bench-instructions: docs/performance.md says what is measured and how.
#
# What is measured is the library of `make optimised`, with that of `cargo build --release` in one row; BENCH_BUILD=plain: only that.
# BENCH_FLAGS goes to the harness: --lane hyper|wire, --rounds N, --seconds S. BENCH_OUT gets the JSON file and the picture.

BENCH = target/bench
BENCH_OUT ?= $(BENCH)
BENCH_FLAGS ?=
BENCH_BUILD ?= optimised
BENCH_CC = $(CC) -std=gnu11 -O2 -Wall -Wextra -Werror
ENGINE_PROGRAMS = exchange remembered crowd

.PHONY: bench bench-quick bench-build

bench: bench-build ## the engine beside wrk, libcurl and hyper-util, and each target's figure: 7 minutes and some for its builds, on a quiet machine
	$(BENCH)/bin/harness $(BENCH)/bin $(BENCH_OUT) $(BENCH_FLAGS)

bench-quick: bench-build ## the same, small: whether it runs, not what it costs
	$(BENCH)/bin/harness $(BENCH)/bin $(BENCH_OUT) --quick $(BENCH_FLAGS)

bench-build:
	@tests/setup bench
	$(CARGO) build --release --locked --lib
	cd benches && CARGO_TARGET_DIR=$(CURDIR)/target $(CARGO) build --release --locked --workspace --exclude bench-steps
	@mkdir -p $(BENCH)/bin
	$(MAKE) --no-print-directory bench-engine
	@rm -rf $(BENCH)/bin/plain
ifneq ($(BENCH_BUILD),plain)
	packaging/optimised
	@mkdir -p $(BENCH)/bin/plain
	@cp $(BENCH)/bin/exchange $(BENCH)/bin/plain/
	@ln -sfn ../../../release/libalta_auth.so $(BENCH)/bin/plain/libalta_auth.so.0
	@ln -sfn ../../optimised/libalta_auth.so $(BENCH)/bin/libalta_auth.so.0
endif
	$(BENCH_CC) -o $(BENCH)/bin/libcurl benches/peers/libcurl.c -lcurl
	@cp target/release/harness target/release/hyper_util benches/peers/wrk.lua $(BENCH)/bin/

# What drives the engine, without its peers: `make bench-instructions` needs no more.
.PHONY: bench-engine
bench-engine:
	@mkdir -p $(BENCH)/bin
	@ln -sfn ../../release/libalta_auth.so $(BENCH)/bin/libalta_auth.so.0
	$(BENCH_CC) -o $(BENCH)/bin/server benches/server.c
	$(BENCH_CC) -shared -fPIC -o $(BENCH)/bin/allocations.so benches/engine/allocations.c
	for program in $(ENGINE_PROGRAMS); do \
		$(BENCH_CC) -Iinclude -o $(BENCH)/bin/$$program benches/engine/$$program.c \
			target/release/libalta_auth.so '-Wl,-rpath,$$ORIGIN' || exit 1; \
	done

# Its own target: the library with one more feature.
.PHONY: bench-steps
bench-steps: toolchain ## the steps of a check one by one, with criterion
	cd benches && CARGO_TARGET_DIR=$(CURDIR)/target/steps $(CARGO) bench --locked --package bench-steps

.PHONY: bench-instructions bench-where bench-baseline
bench-instructions: bench-counted ## instructions and bytes a check beside what is committed, as CI does
	benches/instructions/measure check
	benches/footprint

bench-where: bench-counted ## where a check's instructions go; KEYS='http.lane=hyper' for one lane
	@benches/instructions/where

bench-baseline: bench-counted ## commit what the instructions are now
	benches/instructions/measure renew

# With the command's features, as `make demo` has already built it.
.PHONY: bench-counted
bench-counted: valgrind
	$(CARGO) build --release --locked $(FEATURES) --lib
	$(MAKE) --no-print-directory bench-engine
