#!/bin/sh
# Makes Grid Engine's cell before its first start, on the qmaster's node: nearly all that qconf is asked for otherwise.
#   cell.sh FILES      FILES: this directory
set -eu
files=$1
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default
root=$SGE_ROOT/$SGE_CELL spool=/var/spool/gridengine given=/usr/share/gridengine work=/srv/sge/work
lib=/usr/lib/gridengine

mkdir -p $root/common $work $spool/qmaster $spool/spooldb $spool/execd
for kind in centry exechosts hosts pes; do mkdir $work/$kind; done
cp $given/util/resources/centry/* $work/centry/
cp "$files/gpu" "$files/mem_free" $work/centry/
cp "$files/pe" $work/pes/smp
cp "$files/exechost" $work/exechosts/sgen1
for host in sgelogin sgen1; do echo "hostname $host" >$work/hosts/$host; done
cp "$files/bootstrap" $root/common/bootstrap
echo sgelogin >$root/common/act_qmaster
chown -R sgeadmin:sgeadmin $root $spool

as_admin() { setpriv --reuid=sgeadmin --regid=sgeadmin --clear-groups "$@"; }
as_admin env LD_LIBRARY_PATH=$lib $lib/spoolinit berkeleydb libspoolb $spool/spooldb init
for words in "configuration $files/configuration" "complexes $work/centry" "usersets $given/util/resources/usersets" \
  "managers root sgeadmin" "adminhosts $work/hosts" "submithosts $work/hosts" "exechosts $work/exechosts" \
  "pes $work/pes"; do
  # shellcheck disable=SC2086  # a list of words
  as_admin $lib/spooldefaults $words
done
