#!/usr/bin/env bash
# Makes the skiff that is one file, of bin/: dist.sh OUTPUT VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
output=$1 version=$2
mkdir -p "$(dirname "$output")"
launcher=$(mktemp -d)/skiff-dist
trap 'rm -r "$(dirname "$launcher")"' EXIT
go build -trimpath -ldflags '-s -w' -o "$launcher" ./cmd/skiff-dist
"$launcher" "$output" bin "$version"
