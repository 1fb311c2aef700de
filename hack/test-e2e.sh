#!/usr/bin/env bash
# End-to-end tests on real clusters: [FOCUS=regexp] for a part of them.
#
#   test-e2e.sh [soak]    soak: the long ones, which are left out otherwise
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: clusters need root"; exit 1; }
labels='!soak'
[ "${1:-}" != soak ] || labels=soak
go test ./test/e2e -timeout 40m -v -ginkgo.label-filter "$labels" -ginkgo.v -ginkgo.no-color ${FOCUS:+-ginkgo.focus "$FOCUS"}
# Faults at random, as make robustness and make kills, but short.
if [ "$labels" != soak ] && [ -z "${FOCUS:-}" ]; then
	DURATION=60s KILLS=4 hack/test-robustness.sh '!churn && !steps'
fi
