#!/usr/bin/env bash
# Builds kube-proxy from its module and measures it beside our dataplane.
# Arguments go to test/bench/dataplane; results are in _output/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: network namespaces need root"; exit 1; }
hack/setup.sh bench
out=_output/bench/bin
mkdir -p "$out"
stamp="-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
go build -ldflags "$stamp" -o "$out/kube-proxy" k8s.io/kubernetes/cmd/kube-proxy
go build -ldflags '-s -w' -o "$out/" ./test/apiserver ./test/bench/dataplane ./test/bench/dataplane/agent ./test/bench/dataplane/loadgen
exec "$out/dataplane" -programs "$out" "$@"
