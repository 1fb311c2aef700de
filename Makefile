# Everything a person or CI does with skiff. Logic lives in hack/.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# One setting for every program: cgo on and off do not share the build cache.
export CGO_ENABLED := 0

KUBERNETES_VERSION := v1.37.2
VERSION ?= $(KUBERNETES_VERSION)+skiff
CONTAINERD_VERSION := $(shell awk '$$1 == "github.com/containerd/containerd/v2" {print substr($$2, 2)}' go.mod)
VERSION_PKG := k8s.io/component-base/version
COMMIT := $(shell git rev-parse --verify -q HEAD 2>/dev/null || echo unknown)
DATE := $(shell git log -1 --format=%cd --date=format:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
LDFLAGS := -s -w \
	-X $(VERSION_PKG).gitVersion=$(VERSION) -X $(VERSION_PKG).gitMajor=1 -X $(VERSION_PKG).gitMinor=37 \
	-X $(VERSION_PKG).gitCommit=$(COMMIT) -X $(VERSION_PKG).gitTreeState=clean -X $(VERSION_PKG).buildDate=$(DATE) \
	-X k8s.io/client-go/pkg/version.gitVersion=$(VERSION) \
	-X github.com/containerd/containerd/v2/version.Version=$(CONTAINERD_VERSION) \
	-X main.version=$(VERSION) -X main.commit=$(COMMIT)

OUT := _output
LIBEXEC := bin/libexec/skiff
PROGRAMS := skiff-machine skiff-init skiff-shim skiff-pause runc

##@ Use

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*##/ {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: setup build kubectl ## Build all, create a cluster of three nodes, run the demo on it
	hack/up.sh

.PHONY: down
down: ## Delete the demo cluster
	bin/skiff delete cluster --name skiff

##@ Build

.PHONY: setup
setup: ## Install what the machine lacks (Debian packages)
	hack/setup.sh

.PHONY: build
build: bin/skiff $(addprefix $(LIBEXEC)/,$(PROGRAMS)) ## Build bin/skiff and bin/libexec/skiff

# go decides what is stale.
.PHONY: bin/skiff $(LIBEXEC)/skiff-machine $(LIBEXEC)/skiff-init $(LIBEXEC)/skiff-shim
bin/skiff:
	go build -ldflags '$(LDFLAGS)' -o $@ ./cmd/skiff
$(LIBEXEC)/skiff-machine $(LIBEXEC)/skiff-init:
	go build -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)
$(LIBEXEC)/skiff-shim:
	go build -tags no_grpc -ldflags '$(LDFLAGS)' -o $@ ./cmd/skiff-shim
$(LIBEXEC)/skiff-pause: cmd/skiff-pause/pause.c cmd/skiff-pause/build.sh
	mkdir -p $(@D) && cmd/skiff-pause/build.sh $@
$(LIBEXEC)/runc: go.mod hack/build-runc.sh
	hack/build-runc.sh $@

.PHONY: kubectl
kubectl: $(OUT)/bin/kubectl
$(OUT)/bin/kubectl: go.mod
	go build -ldflags '$(LDFLAGS)' -o $@ k8s.io/kubernetes/cmd/kubectl

# Every image that tests need, in one archive.
IMAGES := $(OUT)/images.tar
$(IMAGES): go.mod $(wildcard test/images/*.go test/images/*/*.go test/load/*.go)
	go run ./test/images -o $@

# The sidecars of upstream's CSI specs.
IMAGES_CSI := $(OUT)/images-csi.tar
$(IMAGES_CSI): test/images/csi/go.mod $(wildcard test/images/*.go)
	go run ./test/images -set csi -cache $(OUT)/images-csi -o $@

.PHONY: dist
dist: build ## Make one skiff that unpacks itself: _output/dist/skiff
	hack/dist.sh $(OUT)/dist/skiff $(VERSION)

.PHONY: generate
generate: ## Generate code: eBPF objects and their Go bindings (needs clang)
	go generate ./...

.PHONY: verify
verify: ## Check formatting, go vet, and that generated files are current
	hack/verify.sh

.PHONY: lint
lint: ## golangci-lint, built at its pinned version: [LINT=packages]
	hack/lint.sh $(LINT)

##@ Test

.PHONY: test
test: setup build kubectl verify test-unit test-root e2e conformance-slice ## Everything that CI runs

.PHONY: test-unit
test-unit: ## Unit tests with the race detector
	hack/test-unit.sh

.PHONY: test-root
test-root: build ## Tests that need root, a kernel or an API server
	hack/test-root.sh

.PHONY: e2e
e2e: build kubectl $(IMAGES) ## End-to-end tests on real clusters
	hack/test-e2e.sh

.PHONY: soak
soak: build kubectl $(IMAGES) ## Roll fifty Deployments under load
	hack/test-e2e.sh soak

.PHONY: robustness
robustness: build ## Faults on a cluster under load: [DURATION=1h] [SEED=n] [CONTROL_PLANES=n] [WORKERS=n]
	REPORT=$(or $(REPORT),test/robustness/REPORT.md) hack/test-robustness.sh

.PHONY: kills
kills: build ## Kill a node's process while Pods come and go: [KILLS=100] [SEED=n]
	hack/test-robustness.sh kills

.PHONY: churn
churn: build ## Pods that come and go leave nothing behind: [DURATION=1h] [RATE=100] [SEED=n]
	REPORT=$(or $(REPORT),test/robustness/CHURN.md) hack/test-robustness.sh churn

.PHONY: conformance
conformance: build kubectl $(IMAGES) $(if $(CSI),$(IMAGES_CSI)) ## Upstream's e2e suite: [FOCUS=regexp] [SKIP=regexp] [PROCS=n] [WORKERS=n] [ZONES=n] [CSI=1]
	test/conformance/run.sh

.PHONY: conformance-slice
conformance-slice: build kubectl $(IMAGES) ## The slice of upstream's suite that CI runs
	test/conformance/run.sh --slice

.PHONY: test-vm
test-vm: build kubectl ## Debian kernels in emulated machines, with a reboot: [KERNELS="suite/package ..."]
	hack/test-vm.sh

.PHONY: bench
bench: build kubectl $(IMAGES) ## Measure skiff beside upstream's own programs
	hack/bench.sh

.PHONY: bench-dataplane
bench-dataplane: ## Measure Services beside kube-proxy: [ARGS="-short -services 1,1000"]
	hack/bench-dataplane.sh $(ARGS)

.PHONY: bench-controllers
bench-controllers: ## Measure controllers beside kube-controller-manager: [ARGS=-n 3]
	hack/bench-controllers.sh $(ARGS)

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin $(OUT)
