# make demo | test | check | chart | images | bench | chaos | fuzz: everything a newcomer runs.
# Missing packages are installed when run as root, else they are named.
SHELL := /bin/bash
PACKAGES := deploy/packages.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)
TOOLS := $(or $(CARGO_INSTALL_ROOT),$(HOME)/.cache/postroad/tools)

.PHONY: demo test check chart images bench chaos fuzz fmt

demo:
	@$(PACKAGES) demo
	cargo build --workspace
	$(TARGET)/debug/demo

# The services first: end-to-end tests run their binaries.
test:
	@$(PACKAGES) test
	cargo build --workspace
	cargo test --workspace --no-fail-fast

check:
	@$(PACKAGES) check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test -p tests --test floors
	cargo deny check licenses bans sources
	$(TOOLS)/bin/helm lint --quiet helm/postroad

# The chart rendered, held against the schemas of Kubernetes, and read by the services themselves.
chart:
	@$(PACKAGES) chart
	cargo build --workspace --bins
	HELM=$(TOOLS)/bin/helm $(TOOLS)/chart/bin/python deploy/chart.py check --binaries $(TARGET)/debug

# Images in buildah's storage and as archives in target/images; each is then run once.
# TAG and REGISTRY say how they are called.
images:
	@$(PACKAGES) images
	deploy/images.py $(if $(TAG),--tag $(TAG)) $(if $(REGISTRY),--registry $(REGISTRY)) --save $(TARGET)/images
	deploy/try_images.py $(if $(TAG),--tag $(TAG)) $(if $(REGISTRY),--registry $(REGISTRY))

bench:
	@$(PACKAGES) bench
	cargo build --release --workspace
	$(TARGET)/release/bench

# Faults at random for SECONDS after each had its turn.
chaos:
	@$(PACKAGES) test
	cargo build --workspace
	$(TARGET)/debug/chaos $(or $(SECONDS_OF_CHAOS),120) $(SEED)

# The state machines and parsers for SECONDS_OF_FUZZ; a SEED repeats a run.
fuzz:
	cargo build -p tests --bin fuzz
	$(TARGET)/debug/fuzz $(or $(SECONDS_OF_FUZZ),60) $(SEED)

fmt:
	cargo fmt --all
