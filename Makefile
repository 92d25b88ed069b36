# make                  build kcache
# make demo             demonstrate kcache on real kernels and packages, in a scratch directory
# make test             formatting, clippy, rustdoc, all tests; .ci/run calls this and the next
# make test-services    licences of dependencies, and tests with Garage, an S3 store; compiles that and cargo-deny once
# make test-debian      the most important tests in a Debian 13 system of its own (DEBIAN=sid: in another), made once; root, two minutes
# make test-host        all tests as on a host with kernels of its own in /lib/modules; root
# make test-all         the same, with every package on every kernel
# make test-indexes     compare kcache's module indexes with depmod's, on whole kernels with real packages; KCACHE_MODULES=DIR
#                       adds modules from DIR/RELEASE/PACKAGE/*.ko, DEPMOD=FILE takes another depmod than this machine's
# make test-kmod        the same with depmod of every release of kmod from 28 on, each compiled once; git, gcc
# make test-apt         hooks in a Debian system of its own, with its own apt, in every order; root, eight minutes
# make test-apt-dkms    Debian's -dkms packages with kcache as dkms, in two such systems; root, five minutes, after test-apt
# make test-dkms-suite   DKMS's own test suite with kcache in its place, and a table of the differences; root, a quarter of an hour
# make test-adopt       kcache adopt on a host where Debian's dkms script has installed modules; root, a few minutes
# make test-fleet-docs  every command of docs/fleet.md, on systems of its own, and what it prints; root, one minute, after test-apt;
#                       FLEET_RELEASE=trixie on Debian 13, after a corpus of it
# make test-secureboot  a kernel under Secure Boot, in a VM, loads what kcache signed and nothing else; three minutes
# make test-systemd     kcache's units under a real systemd, with control groups: a VM builds, reboots, loses a module, reboots;
#                       root, six minutes
# make test-large       ZFS and one of NVIDIA's drivers on the newest kernel; ZFS in an initramfs, by apt; root, half an hour,
#                       after test-apt
# make corpus           build every -dkms package of Debian, including contrib and non-free, with dkms and with kcache; root,
#                       hours; CORPUS_RELEASE=trixie for another release than bookworm
# make corpus-trees     CORPUS=DIR: build each of your own source trees in DIR with dkms, with make and with kcache, and print
#                       a table; root
# make verify-archive   make corpus, keeping kcache's store: builds that it finds, also by other tools, are built again and compared;
#                       after an update of the compiler, the kernels or kcache
# make verdicts         compare the verdicts of `kcache check` for ten packages with what three booted kernels load
# make zoo              tiny kernels of every make, in the layouts of other distributions, and a table of what was tried with each;
#                       compiles them once, an hour
# make fleet            200 hosts fetch at once what one has built, and a table of the results
# make torture          kill kcache, cut its power and fail its calls at every system call, on full disks; corruption,
#                       concurrency, forged times; root, two hours
# make fuzz             run every fuzz target for an hour (FUZZ_SECONDS=3600), two at a time; nightly and cargo-fuzz
# make bench            compare kcache with plain tools and dkms, into docs/performance.md; root, hours
# make screenshot       the figure in docs/report.md; root, chromium
# make install          install the program and the hooks that this system calls; PREFIX=/usr/local, DESTDIR= for packagers,
#                       HOOKS=none
# make deb              build a Debian package of both, in target/
#
# demo, test and bench first install and download what they need, as tests/fixtures.sh describes.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo

# Kernels and packages are downloaded once for all checkouts. The demo leaves nothing outside its checkout, so it uses
# target/fixtures unless a test run has filled the shared directory.
found := $(firstword $(wildcard $(HOME)/.cache/kcache-fixtures $(CURDIR)/target/fixtures))
test test-all test-services test-host test-indexes test-kmod test-debian test-apt test-apt-dkms test-dkms-suite test-adopt test-secureboot test-systemd test-fleet-docs fleet verdicts zoo corpus corpus-trees verify-archive torture bench screenshot test-large: export KCACHE_FIXTURES ?= $(or $(found),$(HOME)/.cache/kcache-fixtures)
demo: export KCACHE_FIXTURES ?= $(or $(found),$(CURDIR)/target/fixtures)

# Tests copy kernels' headers, some 6,000 small files at a time, which is several times faster in memory than on a disk. So use
# /dev/shm if it has 6 GiB free and programs may be run from it.
ifeq ($(origin TMPDIR),undefined)
memory := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 6000000 2>/dev/null \
    && ! grep -q ' /dev/shm .*noexec' /proc/mounts && echo /dev/shm)
test test-all test-services test-host test-indexes test-debian torture: export TMPDIR = $(or $(memory),/tmp)
endif

# Compiled dependencies are shared too, so a fresh checkout compiles only its own crates.
ifeq ($(origin CARGO_TARGET_DIR),undefined)
test test-all test-services test-host test-debian: export CARGO_TARGET_DIR = $(KCACHE_FIXTURES)/target
endif
export CARGO_TARGET_DIR ?= $(CURDIR)/target

# Tests spend most of their time waiting: for servers that hang, locks, guests.
test test-all test-services test-host test-debian: export RUST_TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))

# Tests compare snapshots; only a run of cargo by hand rewrites them (CONTRIBUTING.md).
unexport UPDATE_EXPECT

.PHONY: build demo test test-all test-services test-host test-large test-indexes test-kmod test-debian test-apt test-apt-dkms test-dkms-suite test-adopt test-secureboot test-systemd test-fleet-docs fleet verdicts zoo corpus corpus-trees verify-archive torture fuzz bench screenshot install deb clean help fixtures kernels

build:
	$(CARGO) build --release --locked

fixtures:
	tests/fixtures.sh

kernels:
	tests/fixtures.sh --kernels

demo: kernels
	$(CARGO) build --release --locked
	tests/demo.sh $(CARGO_TARGET_DIR)

test: fixtures
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked
	TMPDIR=$$(mktemp -d) && chmod 755 "$$TMPDIR" && export TMPDIR && trap 'rm -rf "$$TMPDIR"' EXIT INT TERM && $(CARGO) test --workspace --locked

# What a quarter of an hour of compiling comes before, once. The tests' own programs are those of `make test`.
test-services: export KCACHE_SERVICES = 1
test-services:
	tests/fixtures.sh --services
	PATH="$$PATH:$(KCACHE_FIXTURES)/cargo-deny/bin" $(CARGO) deny --locked check bans licenses sources
	DEPMOD=$(KCACHE_FIXTURES)/kmod/depmod $(CARGO) test --locked -p kcache-kernel --lib -- index
	$(CARGO) test --locked --test kcache -- garage fleet::

test-host: fixtures
	tests/with_kernels.sh $(CARGO) test --workspace --locked

test-all: export KCACHE_TEST_ALL = 1
test-all: test

test-indexes: export KCACHE_INDEXES = all
test-indexes: fixtures
	PROPTEST_CASES=20000 $(CARGO) test --release --locked -p kcache-kernel --lib -- index --nocapture
	$(CARGO) test --release --locked --test kcache -- indexes:: --nocapture

test-kmod: kernels
	tests/kmod_releases.sh

# A build, an installation and a chroot, with that release's compilers, kmod and C library. `tests/on_debian.sh trixie make test` is all.
of_debian = install::a_hit install::modules_lie real_input::the_cloud chrooted::
DEBIAN ?= trixie
# Programs are compiled on this machine, which could not run those of a newer system's C library.
test-debian:
	$(CARGO) test --locked --no-run -p kcache-kernel --lib
	$(CARGO) test --locked --no-run --test kcache
	tests/on_debian.sh $(DEBIAN) sh -ec 'tests/fixtures.sh --kernels; \
		$(CARGO) test --locked -p kcache-kernel --lib -- index; $(CARGO) test --locked --test kcache -- $(of_debian)'

fleet: export KCACHE_FLEET ?= 200
fleet: export KCACHE_SERVICES = 1
fleet:
	tests/fixtures.sh --services
	$(CARGO) test --release --locked --test kcache -- fleet:: --nocapture --test-threads=1

verdicts: fixtures build
	tests/verdicts.sh $(CARGO_TARGET_DIR)

zoo: export KCACHE_ZOO ?= all
zoo: fixtures
	tests/zoo/build.sh
	$(CARGO) test --release --locked --test kcache -- zoo:: --nocapture

corpus: fixtures build
	tests/corpus/run.sh $(CARGO_TARGET_DIR)/release/kcache

corpus-trees: fixtures build
	tests/corpus/trees.sh $(CARGO_TARGET_DIR)/release/kcache "$(CORPUS)"

verify-archive: fixtures build
	KCACHE_VERIFY=1 tests/corpus/run.sh $(CARGO_TARGET_DIR)/release/kcache

test-large: kernels deb
	. $(KCACHE_FIXTURES)/env && CORPUS_KERNELS=$$K61_NEW CORPUS_BOOT=zfs tests/corpus/run.sh $(CARGO_TARGET_DIR)/release/kcache zfs-dkms nvidia-kernel-dkms
	tests/zfs.sh $(CARGO_TARGET_DIR)/deb/kcache_*.deb

# TORTURE="--every 10" takes every tenth call.
torture_run = $(CARGO_TARGET_DIR)/release/torture run --kcache $(CARGO_TARGET_DIR)/release/kcache --fixtures $(KCACHE_FIXTURES) $(TORTURE)
whole = KCACHE_TORTURE=1 $(CARGO) test --release --locked
torture: fixtures build
	$(CARGO) build --release --locked --package kcache-torture
	$(torture_run)
	$(torture_run) --suite dkms
	$(whole) -p kcache-store --lib -- verify --nocapture
	$(whole) -p kcache-kernel --lib -- rot --nocapture
	$(whole) -p kcache-store --test memo -- --nocapture
	$(whole) --test kcache -- together:: --nocapture

FUZZ_SECONDS ?= 3600
fuzz:
	FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run.sh

bench: fixtures
	$(CARGO) bench --locked --bench kcache -- write
	$(CARGO) bench --locked --bench parts

test-apt: kernels deb
	tests/apt.sh $(CARGO_TARGET_DIR)/deb/kcache_*.deb

test-apt-dkms: kernels deb
	tests/apt_dkms.sh $(CARGO_TARGET_DIR)/deb/kcache_*.deb

test-dkms-suite: build
	tests/dkms_suite/run.sh $(CARGO_TARGET_DIR)/release/kcache

test-adopt: fixtures build
	tests/adopt.sh $(CARGO_TARGET_DIR)

test-systemd: fixtures build
	tests/systemd.sh $(CARGO_TARGET_DIR)/release/kcache $(CARGO_TARGET_DIR)/systemd

test-fleet-docs: kernels build
	tests/fleet/word_for_word.py $(CARGO_TARGET_DIR)/release/kcache $(or $(FLEET_RELEASE),bookworm)

test-secureboot: kernels build
	tests/secure_boot.sh $(CARGO_TARGET_DIR)/release/kcache $(CARGO_TARGET_DIR)/secureboot

screenshot: fixtures
	$(CARGO) build --locked
	tests/screenshot.sh $(CARGO_TARGET_DIR)

# Families of hooks for `kcache hooks install`; empty: those that the system calls; none: no hooks.
HOOKS ?=
install: build
	install -D -m 0755 $(CARGO_TARGET_DIR)/release/kcache $(DESTDIR)$(PREFIX)/bin/kcache
ifneq ($(HOOKS),none)
	$(DESTDIR)$(PREFIX)/bin/kcache --root "$(or $(DESTDIR),/)" hooks install --program $(PREFIX)/bin/kcache \
	    $(if $(DESTDIR),--vendor $(or $(HOOKS),debian kernel-install pacman boot),$(HOOKS))
endif

deb: build
	rm -rf $(CARGO_TARGET_DIR)/deb
	packaging/deb.sh $(CARGO_TARGET_DIR)/release/kcache $(CARGO_TARGET_DIR)/deb

clean:
	$(CARGO) clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'
