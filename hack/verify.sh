#!/usr/bin/env bash
# Formatting, go vet, and generated files that are not current.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=$(gofmt -l apis cmd controllers dataplane hack hostnode test)
[ -z "$bad" ] || { echo "Error: not formatted: $bad; run: gofmt -w $bad"; exit 1; }
go vet ./...
go vet -tags robustness ./test/robustness
if [ -n "${SKIFF_VERIFY_GENERATED:-}" ]; then
	go generate ./...
	git diff --exit-code -- dataplane config || { echo "Error: generated files differ; commit what 'make generate' made"; exit 1; }
fi
