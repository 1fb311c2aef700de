#!/bin/sh
# Builds runc from its module, static and with seccomp: build-runc.sh OUTPUT
#
# A machine has no distribution of its own, so runc must not need a shared
# library. Needs a C compiler and libseccomp's static library
# (Debian: gcc, libseccomp-dev).
set -eu
cd "$(dirname "$0")/.."
output=${1:?usage: build-runc.sh OUTPUT}
version=$(go list -m -f '{{.Version}}' github.com/opencontainers/runc)
CGO_ENABLED=1 exec go build \
	-tags "seccomp netgo osusergo urfave_cli_no_docs" \
	-ldflags "-s -w -extldflags -static -X main.version=${version#v}" \
	-o "$output" github.com/opencontainers/runc
