#!/usr/bin/env bash
# Faults on real clusters under load: see test/robustness.
#
#   test-robustness.sh [labels]   ginkgo's label filter; default: faults at
#                                 random, and damage to etcd's disk and files
#
#   DURATION=1h SEED=n CONTROL_PLANES=1 WORKERS=2 DURABILITY=durable
#   KILLS=100      of a node's process
#   RATE=100       Pods a minute that come and go
#   FOCUS=regexp   a part of the specs
#   REPORT=file    Markdown with the last run of each kind of cluster
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: clusters need root"; exit 1; }
labels=${1:-'!kills && !churn'}
go run ./test/images -set robustness -o _output/images-robustness.tar
go test -tags robustness ./test/robustness -count 1 -timeout 3h -v -ginkgo.v -ginkgo.no-color -ginkgo.timeout 3h -ginkgo.label-filter "$labels" ${FOCUS:+-ginkgo.focus "$FOCUS"} \
	-args -duration "${DURATION:-1h}" -control-planes "${CONTROL_PLANES:-1}" -workers "${WORKERS:-2}" -kills "${KILLS:-100}" -rate "${RATE:-100}" \
	-durability "${DURABILITY:-durable}" ${SEED:+-seed "$SEED"} ${REPORT:+-report "$(realpath -m "$REPORT")"}
