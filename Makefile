# weir. On a fresh Debian machine with Go, `make run` and `make test` are all there is to know:
# they install what they need, build, and work.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  = -X main.version=$(VERSION)
BIN      = bin/weir

.PHONY: run build static test ui bpf lint fuzz soak interop bench clean help

run: ## build, and meter, collect, store and show on http://127.0.0.1:8642
	@scripts/setup.sh build
	@$(MAKE) --no-print-directory build
	@scripts/run.sh $(BIN) up $(ARGS)

build: ## the whole program, with the query engine
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/weir

static: ## the small one for routers: no cgo, no query engine
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w $(LDFLAGS)' -o bin/weir-static ./cmd/weir
	@ls -l bin/weir-static

test: ## everything that must hold, and a list of what could not be tried here
	@scripts/setup.sh test
	@scripts/test.sh

ui: ## the console's bundle, from its sources
	@scripts/setup.sh ui
	$(GO) run ./ui/build

bpf: ## the kernel's programs, from their sources
	@scripts/setup.sh bpf
	$(GO) generate ./bpf

lint: ## what the tests check of the form of the code
	@scripts/lint.sh

fuzz: ## each fuzz target for FUZZTIME (default 60s)
	@scripts/fuzz.sh

soak: ## long runs: crash campaigns, a day of traffic in an hour
	@scripts/setup.sh test
	@scripts/soak.sh

interop: ## real peers: nfcapd, nfdump, softflowd, pmacct, tshark, fprobe, Open vSwitch
	@scripts/setup.sh interop
	@scripts/interop.sh

bench: ## peers and weir in one run, side by side
	@scripts/setup.sh bench
	@bench/run.sh

help: ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## /	/' | expand -t 10

clean: ## what was built
	rm -rf bin bench/out ui/node_modules
