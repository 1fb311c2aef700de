#!/usr/bin/env bash
# Tests of the packages that link Kubernetes or containerd, against the real
# kernel, containerd and API server. Run as root.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: these tests make namespaces, mounts and cgroups: run as root"; exit 1; }
packages=$(hack/packages.sh heavy)
export SKIFF_LIBEXEC=$PWD/bin/libexec/skiff
# -p 1: tests with clusters, timers and two cores do not share well.
go test -p 1 -timeout 20m $packages
