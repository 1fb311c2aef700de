#!/usr/bin/env bash
# Packs bin/ into one archive that unpacks anywhere: dist.sh DIRECTORY VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1 version=$2
mkdir -p "$out"
archive=$out/skiff-${version}-linux-$(go env GOARCH).tar.gz
tar -C bin --transform "s,^\.,skiff-$version," --sort=name --owner=0 --group=0 -czf "$archive" ./skiff ./libexec
echo "$archive"
