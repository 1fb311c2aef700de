#!/bin/sh
# Builds skiff-pause, static: build.sh OUTPUT
set -eu
output=${1:?usage: build.sh OUTPUT}
exec "${CC:-cc}" -Os -Wall -Wextra -Werror -static -s -Wl,--gc-sections \
	-o "$output" "$(dirname "$0")/pause.c"
