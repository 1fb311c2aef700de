#!/bin/sh
# Serves SSH on a node, run there: serve.sh KEYS, a directory with a host key and
# authorized_keys. Debian's sshd is in the host's /usr, which nodes see.
set -eu
here=$(dirname "$0")
grep -q ^sshd: /etc/passwd 2>/dev/null || printf 'root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n' >>/etc/passwd
# Without an entry there, nss-systemd calls root locked.
[ -e /etc/shadow ] || printf 'root:*:::::::\n' >/etc/shadow
mkdir -p /run/sshd
exec /usr/sbin/sshd -f /dev/null -o Port=22 -o "HostKey=$1/host" -o "AuthorizedKeysFile=$1/authorized_keys" \
	-o PermitRootLogin=yes -o StrictModes=no -o UsePAM=no -o PidFile=none \
	-o "SetEnv=PATH=$here:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
