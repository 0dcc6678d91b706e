# Everything that is built, tested or measured is a target here; `make help`.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X berth.dev/internal/version.Version=$(VERSION)
GUEST    := internal/guestbin/bin/berth-guest
PROGRAMS := internal/engine/gvisor/programs/bin/programs.gob

# A sentry runs with an empty root: the binary must not need a loader.
export CGO_ENABLED = 0

# /usr/local when it may be written to, else the user's own; PREFIX=DIR overrides.
PREFIX ?= $(shell if [ -w /usr/local/bin ]; then echo /usr/local; else echo $$HOME/.local; fi)

.PHONY: build install uninstall generate test test-short test-microvm test-race lint bench fuzz clean help FORCE

build: generate ## build bin/berth
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/berth ./cmd/berth

install: build ## build and install berth; PREFIX=DIR chooses where
	@mkdir -p '$(DESTDIR)$(PREFIX)/bin'
	@install -m 0755 bin/berth '$(DESTDIR)$(PREFIX)/bin/berth.new'
	@mv -f '$(DESTDIR)$(PREFIX)/bin/berth.new' '$(DESTDIR)$(PREFIX)/bin/berth'
	@echo "installed $(PREFIX)/bin/berth ($(VERSION))"
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) \
	  echo "$(PREFIX)/bin is not on your PATH; add it with:"; \
	  echo "    export PATH=\"$(PREFIX)/bin:\$$PATH\"";; esac

uninstall: ## remove the installed berth
	rm -f '$(DESTDIR)$(PREFIX)/bin/berth'

generate: $(GUEST) $(PROGRAMS) ## build what berth embeds

# The guest's binary is cheap to build and Go knows best whether it changed.
$(GUEST): FORCE
	@$(GO) build -trimpath -ldflags '-s -w' -o $@ ./cmd/berth-guest
	@sha256sum $@ | cut -c1-16 > $@.sha256

$(PROGRAMS): go.mod internal/engine/gvisor/programs/compile_unsafe.go internal/engine/gvisor/programs/programs.go
	@$(GO) run ./internal/engine/gvisor/programs/generate $@

FORCE:

# What engines embed: each says so in its own folder.
-include internal/engine/*/generate.mk

test: ## everything CI runs
	@scripts/test

test-short: generate ## the quick tests: no internet, no root, a minute
	$(GO) test -short ./...

test-microvm: ## all end-to-end tests with the engine microvm, of which test runs a part
	@scripts/test microvm

test-race: generate ## the race detector, where the engine is not involved
	@scripts/test race

lint: ## gofmt, go vet, staticcheck, both architectures
	@scripts/test lint

bench: build ## measure starts, exec, memory, network beside what this machine offers
	$(GO) run ./test/bench -berth bin/berth

fuzz: ## every fuzz target for 20 seconds
	@scripts/test fuzz

clean: ## remove what was built
	rm -rf bin $(GUEST) $(GUEST).sha256 $(PROGRAMS)

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
