#!/usr/bin/env bash
# Builds golangci-lint beside the tree, as it shares no dependency with it, and
# runs it: lint.sh [PACKAGE...]
set -euo pipefail
cd "$(dirname "$0")/.."
version=v2.15.0
export GOBIN=$PWD/_output/bin
if ! "$GOBIN/golangci-lint" version 2>/dev/null | grep -q "version ${version#v} "; then
	go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
fi
"$GOBIN/golangci-lint" run "${@:-./...}"
