#!/bin/sh
# The first process of a node, inside fresh network, UTS and mount namespaces: makes the node's own view of the
# machine, prints its pid and sleeps. The mount of /run bears the lab's mark, by which its processes are known.
#   node.sh ROLE NODE STATE MARK VENV SOURCE
set -eu
role=$1 node=$2 state=$3 mark=$4 venv=$5 source=$6
own=$state/nodes/$node

hostname "$node"
ip link set lo up
echo 0 >/proc/sys/net/ipv4/ip_forward

# /etc: the machine's, copy on write (a plain copy where overlayfs is refused), and the lab's files over it.
if ! mount -t overlay overlay -o "lowerdir=/etc,upperdir=$own/etc,workdir=$own/etc.work" /etc 2>/dev/null; then
  cp -a /etc/. "$own/etc/"
  mount --bind "$own/etc" /etc
fi
cp -a --remove-destination "$state/etc/$role/." /etc/
echo "$node" >/etc/hostname

mount -t tmpfs -o mode=755 "$mark" /run
mkdir /run/sshd /run/lock
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "$own/log" /var/log
mount --bind "$own/sbin" /usr/local/sbin

# /opt: the lab's Python and, where the gateway runs, its source; read-only.
mkdir "$own/opt/gateway-lab" "$own/opt/gateway-src"
mount --bind "$venv" "$own/opt/gateway-lab"
mount -o remount,bind,ro "$own/opt/gateway-lab"
if [ "$role" = hub ]; then
  mount --bind "$source" "$own/opt/gateway-src"
  mount -o remount,bind,ro "$own/opt/gateway-src"
fi
mount --rbind "$own/opt" /opt

if [ "$role" = hub ]; then
  install -d -o openldap -g openldap -m 755 /run/slapd
  install -d -o gateway -g gateway -m 700 /run/gateway
  mount --bind "$own/home" /home
  mount --bind "$state/hub" /etc/gateway
  mount --bind "$own/lib" /var/lib
else
  # /srv: what the nodes share besides /home, for the schedulers that need a place of their own.
  mount --bind "$state/srv" /srv
  install -d -o munge -g munge -m 755 /run/munge
  mount --bind "$state/home" /home
  mount --bind "$state/home/rory" /home/rory
  mount -o remount,bind,ro /home/rory
  mount --bind "$own/munge" /var/lib/munge
  mount --bind "$own/slurm" /var/lib/slurm
fi

# Last, because these may hide the state directory itself.
mount --bind "$own/tmp" /tmp
mount --bind /tmp /var/tmp
cd /
echo $$
exec sleep infinity >/dev/null 2>&1
