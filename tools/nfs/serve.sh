#!/bin/sh
# Makes a machine an NFS server for the folder /run/data/export of its disk, with all that it must remember
# over a reboot on that disk. seconds: of the lease, and of the time for clients to say what they had open.
set -eu
mkdir -p /run/data
mount -t ext4 /run/disk /run/data
mkdir -p /run/data/export /run/data/state/sm /run/data/state/nfsdcld
touch /run/data/state/etab /run/data/state/rmtab
mount --bind /run/data/state /var/lib/nfs
modprobe -d /run/modules nfsd
mkdir -p /run/rpc_pipefs
mount -t rpc_pipefs pipes /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
echo "$seconds" >/proc/fs/nfsd/nfsv4leasetime
echo "$seconds" >/proc/fs/nfsd/nfsv4gracetime
rpcbind
nfsdcld -p /run/rpc_pipefs/nfsd -s /run/data/state/nfsdcld
rpc.mountd
exportfs -o rw,sync,no_subtree_check,no_root_squash,fsid=0 "*:/run/data/export"
rpc.nfsd 8
cat /proc/fs/nfsd/versions
