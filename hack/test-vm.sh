#!/usr/bin/env bash
# Boots Debian's own kernels in qemu's software emulation, with systemd and
# cgroup2 alone, and runs test/vm/guest inside: a cluster, a reboot, a power
# cut. Needs root and Debian's apt; takes half an hour a kernel on two cores.
#
#   [KERNELS="suite/package ..."] test-vm.sh [report]
#
# suite/package/suite takes the package from that suite alone: a suite that is
# on its way to the archive names security updates which are gone already.
#
# What a run found is in _output/vm/run-*: findings.jsonl, console.log, and
# evidence.log with what the cluster said where a check failed.
#
# report: write test/vm/REPORT.md only, of the last run of every kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "Error: making a root file system needs root"; exit 1; }
export CGO_ENABLED=0 # the guest is any Debian
out=$PWD/_output/vm
read -ra kernels <<<"${KERNELS:-bookworm/linux-image-cloud-amd64 bookworm/linux-image-6.12-cloud-amd64 bullseye/linux-image-cloud-amd64/bullseye}"

need() { # command package
	command -v "$1" >/dev/null || {
		echo "test-vm: $2 is missing"
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$2"
	}
}

# The root file system of a suite, made once.
base() { # suite
	local root=$out/debian-$1
	[ ! -d "$root" ] || return 0
	rm -rf "$root.new"
	debootstrap --variant=minbase --include=systemd-sysv,udev,dbus,kmod,iproute2,procps,ca-certificates,initramfs-tools,e2fsprogs \
		"$1" "$root.new" http://deb.debian.org/debian >"$out/debootstrap-$1.log"
	printf 'deb http://deb.debian.org/debian%s main\n' " $1" " $1-updates" "-security $1-security" >"$root.new/etc/apt/sources.list"
	# Of the machine that this runs on.
	echo skiff-vm >"$root.new/etc/hostname"
	rm -f "$root.new/etc/resolv.conf"
	echo '/dev/vda / ext4 defaults,prjquota 0 1' >"$root.new/etc/fstab"
	# For the root file system's project quotas.
	echo quota_v2 >>"$root.new/etc/initramfs-tools/modules"
	mv "$root.new" "$root"
}

# Everything of a kernel's run: disk.img, vmlinuz, initrd.img and facts.
disk() { # suite package dir
	local dir=$3 root=$3/root
	rm -rf "$dir"
	mkdir -p "$dir"
	cp -a "$out/debian-$1" "$root"
	cp /etc/resolv.conf "$root/etc/resolv.conf"
	chroot "$root" apt-get -q update >"$dir/apt.log"
	DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q -y --no-install-recommends install "$2" >>"$dir/apt.log" 2>&1
	# Nothing is checkpointed on the older one, whose kernel is refused.
	if [ "$1" != bullseye ]; then
		DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q -y --no-install-recommends install criu iptables >>"$dir/apt.log" 2>&1
	fi
	chroot "$root" apt-get clean
	# There is no network, so there is nobody to ask.
	: >"$root/etc/resolv.conf"
	cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
	cp "$root"/boot/initrd.img-* "$dir/initrd.img"
	{
		echo "kernel package: ${2%%/*} $(chroot "$root" dpkg-query -W -f '${Version}' "${2%%/*}") ($1)"
		echo "qemu: $(qemu-system-x86_64 --version | head -1)"
		echo "host kernel: $(uname -r)"
	} >"$dir/facts"

	mkdir -p "$root/opt/skiff"
	cp -a bin "$root/opt/skiff/bin"
	cp "$out/guest" "$out/nodenat.test" "$out/projectquota.test" "$out/images.tar" config/samples/demo.yaml "$root/opt/skiff/"
	ln -s /opt/skiff/bin/skiff "$root/usr/local/bin/skiff"
	cp _output/bin/kubectl "$root/usr/local/bin/kubectl"
	cp test/vm/guest/skiff-vm.service "$root/etc/systemd/system/"
	ln -s ../skiff-vm.service "$root/etc/systemd/system/multi-user.target.wants/skiff-vm.service"
	truncate -s 8G "$dir/disk.img"
	mke2fs -q -t ext4 -O project,quota -E quotatype=prjquota -d "$root" "$dir/disk.img"
	rm -rf "$root"
}

dir_of() { echo "$out/run-${1//\//-}"; }

report() {
	go run ./test/vm -report test/vm/REPORT.md "$out"/run-*
	echo "test-vm: test/vm/REPORT.md"
}

if [ "${1:-}" = report ]; then
	report
	exit
fi
need debootstrap debootstrap
need qemu-system-x86_64 qemu-system-x86
need mke2fs e2fsprogs
mkdir -p "$out"
go build -ldflags '-s -w' -o "$out/guest" ./test/vm/guest
go test -c -o "$out/nodenat.test" ./dataplane/lb/nodenat
go test -c -o "$out/projectquota.test" ./hostnode/projectquota
go run ./test/images -set vm -cache "$out/images" -o "$out/images.tar"
failed=0
for k in "${kernels[@]}"; do
	echo "test-vm: $k"
	base "${k%%/*}"
	disk "${k%%/*}" "${k#*/}" "$(dir_of "$k")"
	go run ./test/vm -dir "$(dir_of "$k")" || failed=1
	rm -f "$(dir_of "$k")/disk.img"
done
report
exit $failed
