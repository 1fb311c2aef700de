#!/usr/bin/env bash
# Builds kube-controller-manager from its module and measures it beside our
# controllers. Arguments go to test/bench/controllers; results are in
# _output/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
out=_output/bench/bin
mkdir -p "$out"
stamp="-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
go build -ldflags "$stamp" -o "$out/" k8s.io/kubernetes/cmd/kube-controller-manager ./test/controlplane
go build -ldflags '-s -w' -o "$out/" ./test/bench/controllers
exec "$out/controllers" -programs "$out" "$@"
