#!/usr/bin/env bash
# Builds upstream's programs from their modules and measures skiff beside
# them. Arguments go to test/bench; results are in _output/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: clusters need root"; exit 1; }
hack/setup.sh bench
out=_output/upstream
mkdir -p "$out"
stamp="-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
for p in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
	go build -ldflags "$stamp" -o "$out/$p" "k8s.io/kubernetes/cmd/$p"
done
go build -ldflags '-s -w' -o "$out/etcd" go.etcd.io/etcd/server/v3
for p in containerd containerd-shim-runc-v2 ctr; do
	go build -ldflags '-s -w' -o "$out/$p" "github.com/containerd/containerd/v2/cmd/$p"
done
for p in main/bridge main/loopback ipam/host-local meta/portmap; do
	go build -ldflags '-s -w' -o "$out/${p##*/}" "github.com/containernetworking/plugins/plugins/$p"
done
cp bin/libexec/skiff/runc "$out/runc"
go run ./test/bench "$@"
