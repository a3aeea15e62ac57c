#!/bin/bash
# Loads a server with ranks under Open MPI, and merges their records:
#
#   contrib/mpi/openmpi.sh host1:2,host2:2 SERVER:8898 --conns 1000 --duration 30s
#
# That is two ranks on each host. The current directory must be shared by the hosts, and loadgen
# installed on them. mpirun reaches them by ssh, or by the scheduler in whose job it runs.
set -eu

hosts=$1
shift
records=$(mktemp -d "$PWD/loadgen-XXXXXX")

# Open MPI offers no PMI-1, so the start is an instant: 10 s ahead, or LEAD seconds, which must be long
# enough for the last rank to connect. mpirun would end all ranks as soon as one fails, so it does not learn
# of that: merge reports the rank. (With orte_abort_on_non_zero_status=0, mpirun 4.1 hangs if a rank is
# killed.) Without --bind-to none it would choose the CPUs of each rank.
# shellcheck disable=SC2016 # the shell on the host expands $@
mpirun --host "$hosts" --bind-to none sh -c 'loadgen "$@" || true' loadgen \
    --ranks auto --start-at $(($(date +%s) + ${LEAD:-10})) -o "$records" "$@"
loadgen merge "$records"
