#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, and says which.
# Needs Go, gcc and apt; does nothing when all is there.
#
#   setup.sh [bench]    bench: also what kube-proxy runs, which we measure beside
set -euo pipefail

# command or file to look for | package that brings it | what for
wanted="
make|make|the Makefile
git|git|version numbers in the programs
pkg-config|pkg-config|building runc
/usr/include/seccomp.h|libseccomp-dev|building runc
ip|iproute2|tests that look at links and routes
nft|nftables|tests that cut cables
mkfs.ext4|e2fsprogs|volumes that are file systems of their own
losetup|mount|tests that look at loop devices
/bin/busybox|busybox-static|images for tests
curl|curl|the demo
dpkg-deb|dpkg|images for tests
"
if [ "${1:-}" = bench ]; then
	wanted+="iptables|iptables|kube-proxy's iptables mode
"
fi

missing=()
while IFS='|' read -r what package why; do
	[ -n "$what" ] || continue
	case "$what" in
	/*) [ -e "$what" ] && continue ;;
	*) command -v "$what" >/dev/null && continue ;;
	esac
	echo "setup: $package is missing ($why)"
	missing+=("$package")
done <<<"$wanted"

command -v go >/dev/null || { echo "Error: go is not installed; install Go $(awk '/^go /{print $2}' "$(dirname "$0")/../go.mod") or newer from https://go.dev/dl"; exit 1; }
command -v gcc >/dev/null || { echo "Error: gcc is not installed; run: apt-get install gcc"; exit 1; }

if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || { echo "Error: apt-get is not here; install by hand: ${missing[*]}"; exit 1; }
	[ "$(id -u)" = 0 ] || { echo "Error: run as root: apt-get install ${missing[*]}"; exit 1; }
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	apt-get install -q -y --no-install-recommends "${missing[@]}"
elif ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
	# The images for tests look packages up.
	[ "$(id -u)" != 0 ] || apt-get update -q
fi
echo "setup: complete"
