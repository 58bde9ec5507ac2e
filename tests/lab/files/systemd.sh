#!/bin/sh
# Starts a systemd of its own, with no other units than the journal and what a test adds. It is the first process
# of a PID namespace: nothing of it outlives it.
# What it writes below DIRECTORIES goes to a tmpfs.
#   systemd.sh start MARK DIRECTORIES [WORDS THAT ENTER A NODE]    prints the pid of systemd's parent
set -eu
step=$1 mark=$2 directories=$3
shift 3

case $step in
  start)
    # A control group of its own, so that nothing is left in the machine's.
    groups=$(mktemp -d)
    mount -t cgroup2 cgroup2 "$groups"
    mkdir -p "$groups/$mark"
    echo $$ >"$groups/$mark/cgroup.procs"
    umount "$groups"
    rmdir "$groups"
    echo $$
    exec 3<"$0" >/dev/null
    exec "$@" unshare --pid --fork --kill-child --mount --propagation=private --ipc --cgroup -- \
      sh /dev/fd/3 inside "$mark" "$directories"
    ;;
esac

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/over
mount -t tmpfs -o mode=755 "$mark" /run/over
mkdir /run/over/dev /run/over/gateway
[ ! -d /etc/gateway ] || mount --bind /etc/gateway /run/over/gateway
for directory in $directories; do
  mkdir -p "/run/over/$directory/new" "/run/over/$directory/work"
  mount -t overlay overlay \
    -o "lowerdir=/$directory,upperdir=/run/over/$directory/new,workdir=/run/over/$directory/work" "/$directory"
done
[ ! -d /etc/gateway ] || mount --bind /run/over/gateway /etc/gateway

for device in null zero full random urandom tty; do cp -a "/dev/$device" /run/over/dev/; done
mkdir /run/over/dev/shm /run/over/dev/pts
mount --bind /run/over/dev /dev
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
mount -t tmpfs -o mode=755 "$mark" /run

# Nothing of the machine's own is started but the journal.
for target in sysinit sockets timers local-fs multi-user; do
  wants=/lib/systemd/system/$target.target.wants
  [ ! -d "$wants" ] || mount -t tmpfs tmpfs "$wants"
done
rm -rf /etc/systemd/system /etc/systemd/user /etc/systemd/network /etc/fstab
mkdir -p /etc/systemd/system
printf '[Unit]\nWants=systemd-journald.service\nAllowIsolate=yes\n' >/etc/systemd/system/test.target
for unit in network-online.target systemd-journald-audit.socket; do
  ln -s /dev/null "/etc/systemd/system/$unit"
done
export container=test
exec 3<&-
exec /lib/systemd/systemd --system --log-target=journal --show-status=no --unit=test.target
