#!/usr/bin/env bash
# End-to-end tests on real clusters: [FOCUS=regexp] for a part of them.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: clusters need root"; exit 1; }
go test ./test/e2e -timeout 40m -v -ginkgo.v -ginkgo.no-color ${FOCUS:+-ginkgo.focus "$FOCUS"}
