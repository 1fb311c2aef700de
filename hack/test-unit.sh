#!/usr/bin/env bash
# Tests of the light packages, with the race detector (which needs cgo). Those
# that need root skip themselves for other users and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
CGO_ENABLED=1 go test -race -timeout 10m $(hack/packages.sh light)
