# Installs the C library: make install PREFIX=/usr DESTDIR=/tmp/stage LIBDIR=/usr/lib/x86_64-linux-gnu
# Part of the top Makefile; also works by itself: make -f packaging/install.mk install.
#
# `install` builds nothing when ALTA_LIB_DIR is given, and asks cargo for a release build otherwise. So
# `cargo build --release --lib && sudo make install ALTA_LIB_DIR=target/release` leaves no files of root's in the tree.

ALTA_TREE := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))..)
# The version of the package itself: the first one in Cargo.toml.
ALTA_VERSION := $(shell sed -n 's/^version *= *"\(.*\)"$$/\1/p;T;q' $(ALTA_TREE)/Cargo.toml)
# What the SONAME counts; see docs/linking.md. build.rs sets the same.
ALTA_ABI = 0
# The first version that had it.
ALTA_ABI_SINCE = 0.1

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
CARGO ?= cargo
INSTALL ?= install
ALTA_LIB_DIR ?=

# What a program needs that links the archive: rustc's list (cargo rustc --lib --crate-type staticlib -- --print
# native-static-libs) without -lgcc_s and -lc, which every compiler driver adds by itself, in the form that suits: with
# -static there is no -lgcc_s. tests/linking.rs compares.
ALTA_LIBS_PRIVATE = -lutil -lrt -lpthread -lm -ldl

alta_pkgconfig = $(DESTDIR)$(LIBDIR)/pkgconfig
alta_cmake = $(DESTDIR)$(LIBDIR)/cmake/alta_auth
# Where cargo's release is, wherever CARGO_TARGET_DIR has others built.
alta_release = $(ALTA_TREE)/target/$(if $(CARGO_BUILD_TARGET),$(patsubst %.json,%,$(notdir $(CARGO_BUILD_TARGET)))/)release
alta_built = $(or $(ALTA_LIB_DIR),$(alta_release))
# From the CMake package to the headers, if both are under PREFIX; empty otherwise.
alta_up = $(if $(filter $(PREFIX)/%,$(LIBDIR)),$(shell echo '$(LIBDIR:$(PREFIX)/%=%)/cmake/alta_auth' | sed 's:[^/][^/]*:..:g'))
alta_include_from_cmake = $(if $(filter $(PREFIX)/%,$(INCLUDEDIR)),$(if $(alta_up),$(alta_up)/$(INCLUDEDIR:$(PREFIX)/%=%)))
alta_fill = sed \
	-e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|g' \
	-e 's|@VERSION@|$(ALTA_VERSION)|g' -e 's|@ABI@|$(ALTA_ABI)|g' -e 's|@ABI_SINCE@|$(ALTA_ABI_SINCE)|g' -e 's|@LIBS_PRIVATE@|$(ALTA_LIBS_PRIVATE)|g' \
	-e 's|@INCLUDE_FROM_CMAKE@|$(alta_include_from_cmake)|g'

ifeq ($(ALTA_LIB_DIR),)
install: alta-build
endif

alta-build:
	rm -f $(alta_release)/libalta_auth.so $(alta_release)/libalta_auth.a
	cd $(ALTA_TREE) && $(CARGO) build --release --locked --lib --target-dir $(ALTA_TREE)/target
	@test -e $(alta_release)/libalta_auth.so || { \
		echo 'cargo built no $(alta_release)/libalta_auth.so (is build.target set?): give its directory as ALTA_LIB_DIR' >&2; \
		exit 1; }

optimised: ## the C library, optimised by what it does most, in target/optimised: two builds and a minute
	$(ALTA_TREE)/packaging/optimised

install: ## install the C library (PREFIX= DESTDIR= LIBDIR=)
	test -n '$(ALTA_VERSION)'
	mkdir -p $(DESTDIR)$(LIBDIR) $(DESTDIR)$(INCLUDEDIR) $(alta_pkgconfig) $(alta_cmake)
	$(INSTALL) -m 644 $(alta_built)/libalta_auth.so $(DESTDIR)$(LIBDIR)/libalta_auth.so.$(ALTA_VERSION)
	ln -sf libalta_auth.so.$(ALTA_VERSION) $(DESTDIR)$(LIBDIR)/libalta_auth.so.$(ALTA_ABI)
	ln -sf libalta_auth.so.$(ALTA_ABI) $(DESTDIR)$(LIBDIR)/libalta_auth.so
	$(INSTALL) -m 644 $(alta_built)/libalta_auth.a $(DESTDIR)$(LIBDIR)/libalta_auth.a
	$(INSTALL) -m 644 $(ALTA_TREE)/include/alta_auth.h $(ALTA_TREE)/include/alta_auth.hpp $(DESTDIR)$(INCLUDEDIR)/
	$(alta_fill) $(ALTA_TREE)/packaging/alta_auth.pc.in >$(alta_pkgconfig)/alta_auth.pc
	$(alta_fill) $(ALTA_TREE)/packaging/alta_auth-config.cmake.in >$(alta_cmake)/alta_auth-config.cmake
	$(alta_fill) $(ALTA_TREE)/packaging/alta_auth-config-version.cmake.in >$(alta_cmake)/alta_auth-config-version.cmake
	chmod 644 $(alta_pkgconfig)/alta_auth.pc $(alta_cmake)/*.cmake
	$(if $(DESTDIR),,$(if $(filter 0,$(shell id -u)),PATH="$$PATH:/sbin:/usr/sbin" ldconfig,@echo 'run ldconfig as root if $(LIBDIR) is a directory of the loader'))

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(LIBDIR)/libalta_auth.so.$(ALTA_VERSION) $(DESTDIR)$(LIBDIR)/libalta_auth.so.$(ALTA_ABI)
	rm -f $(DESTDIR)$(LIBDIR)/libalta_auth.so $(DESTDIR)$(LIBDIR)/libalta_auth.a
	rm -f $(DESTDIR)$(INCLUDEDIR)/alta_auth.h $(DESTDIR)$(INCLUDEDIR)/alta_auth.hpp
	rm -f $(alta_pkgconfig)/alta_auth.pc
	rm -f $(alta_cmake)/alta_auth-config.cmake $(alta_cmake)/alta_auth-config-version.cmake
	-rmdir $(alta_cmake) 2>/dev/null || true

# Debian packages in target/debian: libalta-auth0 and libalta-auth-dev. What they hold is an installation of the above
# into target/stage, by default of the optimised build. Needs cargo-deb (cargo install cargo-deb --locked).
ALTA_MULTIARCH ?= $(shell dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || $(CC) -print-multiarch)

deb: ## Debian packages of the C library, in target/debian
	@$(CARGO) deb --version >/dev/null 2>&1 || { \
		echo 'make deb needs cargo-deb: cargo install cargo-deb --locked' >&2; exit 1; }
	rm -rf $(ALTA_TREE)/target/stage
	$(if $(ALTA_LIB_DIR),,$(ALTA_TREE)/packaging/optimised)
	$(MAKE) -f $(ALTA_TREE)/packaging/install.mk install \
		ALTA_LIB_DIR=$(or $(ALTA_LIB_DIR),$(ALTA_TREE)/target/optimised) \
		DESTDIR=$(ALTA_TREE)/target/stage PREFIX=/usr LIBDIR=/usr/lib/$(ALTA_MULTIARCH)
	ln -sfn usr/lib/$(ALTA_MULTIARCH) $(ALTA_TREE)/target/stage/lib
	strip --strip-unneeded $(ALTA_TREE)/target/stage/usr/lib/$(ALTA_MULTIARCH)/libalta_auth.so.$(ALTA_VERSION)
	strip --strip-debug $(ALTA_TREE)/target/stage/usr/lib/$(ALTA_MULTIARCH)/libalta_auth.a
	cd $(ALTA_TREE) && $(CARGO) deb --no-build --no-strip --multiarch=same
	cd $(ALTA_TREE) && $(CARGO) deb --no-build --no-strip --multiarch=same --variant=dev

.PHONY: install uninstall alta-build optimised deb
