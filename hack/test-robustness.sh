#!/usr/bin/env bash
# Faults at random on a real cluster under load, and damage to etcd's disk and
# files: see test/robustness.
#
#   DURATION=1h SEED=n CONTROL_PLANES=1 WORKERS=2 DURABILITY=durable
#   FOCUS=regexp   a part of the specs
#   REPORT=file    Markdown with the last run of each kind of cluster
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: clusters need root"; exit 1; }
go run ./test/images -set robustness -o _output/images-robustness.tar
go test -tags robustness ./test/robustness -count 1 -timeout 3h -v -ginkgo.v -ginkgo.no-color -ginkgo.timeout 3h ${FOCUS:+-ginkgo.focus "$FOCUS"} \
	-args -duration "${DURATION:-1h}" -control-planes "${CONTROL_PLANES:-1}" -workers "${WORKERS:-2}" \
	-durability "${DURABILITY:-durable}" ${SEED:+-seed "$SEED"} ${REPORT:+-report "$(realpath -m "$REPORT")"}
