# What package microvm embeds; included by the Makefile at the root.
MICROVM_INIT := internal/engine/microvm/bin/init

generate: $(MICROVM_INIT)

$(MICROVM_INIT): FORCE
	@$(GO) build -trimpath -ldflags '-s -w' -o $@ ./internal/engine/microvm/init
