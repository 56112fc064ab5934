# make            builds the three programs
# make demo       demonstrates the recovery of a lost table on a real PostgreSQL; with S3=1 from a bucket
# make test       lint and all tests; installs missing packages from Debian
# make test-pg19  the tests that need PostgreSQL 19, which is unpacked from Debian experimental
# make bench      measurements
# make install    PREFIX=/usr/local DESTDIR=
# make lint       formatting and clippy

PREFIX  ?= /usr/local
DESTDIR ?=

# rustup's directory of Rust, for shells that do not have it in PATH.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

built    := $(or $(CARGO_TARGET_DIR),target)/release
programs := $(built)/walpush $(built)/walfetch $(built)/walkeep
sources  := Cargo.toml Cargo.lock $(shell find src bin -name '*.rs' -o -name '*.css')
examples := archive.conf restore.conf standby.conf walkeep.toml crontab alerts.yml \
            systemd/walkeep-backup.service systemd/walkeep-backup.timer \
            systemd/walkeep-drill.service systemd/walkeep-drill.timer \
            systemd/walkeep-report.service systemd/walkeep-report.timer \
            systemd/walkeep-status.service systemd/walkeep-status.timer \
            systemd/walkeep-verify.service systemd/walkeep-verify.timer

.PHONY: all demo test test-pg19 bench install lint

all: $(programs)

$(programs) &: $(sources)
	.ci/setup build
	cargo build --release --locked
	touch $(programs)

demo:
	.ci/setup demo
	$(MAKE) --no-print-directory all
	tests/demo.sh $(built)

test:
	.ci/setup test
	$(MAKE) --no-print-directory lint
	# A shell starts background jobs with some signals ignored, and tests send these signals.
	# Tests wait for servers now and then, so there is one more test at a time than processors.
	env --default-signal=INT,QUIT,TERM,PIPE cargo test --locked -- --test-threads=$$(($$(nproc) + 1))

# Names of tests and modules that run on PostgreSQL 19, among other versions.
tests19 := matrix:: nineteen:: versions:: backup::summaries:: hosts_file_of_postgresql_19

test-pg19: export WALKEEP_TEST_VERSIONS ?= /var/tmp/walkeep-tests/postgresql
test-pg19: export WALKEEP_TEST_REQUIRE ?= postgresql-19
test-pg19:
	.ci/setup test
	.ci/setup-pg19
	env --default-signal=INT,QUIT,TERM,PIPE cargo test --locked -- $(tests19)

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

bench: all
	tests/bench/record

# The examples get the directory that the programs are installed in. Nothing is installed into /etc.
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 0755 $(programs) $(DESTDIR)$(PREFIX)/bin
	$(built)/walkeep man --dir $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(built)/walkeep completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/walkeep
	$(built)/walkeep completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_walkeep
	$(built)/walkeep completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/walkeep.fish
	install -d $(DESTDIR)$(PREFIX)/share/doc/walkeep/examples/systemd
	install -m 0644 README.md CHANGELOG.md LICENSE src/repo/FORMAT.md $(DESTDIR)$(PREFIX)/share/doc/walkeep
	for file in $(examples); do \
	    sed 's|/usr/local/bin/|$(PREFIX)/bin/|g' postgresql-conf-examples/$$file \
	        > $(DESTDIR)$(PREFIX)/share/doc/walkeep/examples/$$file || exit 1; \
	done
