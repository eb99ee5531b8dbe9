#!/bin/sh
# The first process of a machine (see machine.py). Its root is the folder tree of whoever started it, so
# that everything is there; what it writes itself goes to /run, in its memory. name, address, root and
# python are words of the kernel's command line, which it hands over as variables.
set -eu
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/modules/lib /run/home /run/tmp
ln -s /usr/lib/uml/modules /run/modules/lib/modules
mknod /run/disk b 98 0
hostname "$name"
ip link set lo up
ip addr add "$address/24" dev vec0
ip link set vec0 up
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/run/home TMPDIR=/run/tmp PYTHONPATH="$source" PYTHONDONTWRITEBYTECODE=1
cd "$source"
exec "$python" -m tools.nfs.command_server
