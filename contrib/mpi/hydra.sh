#!/usr/bin/env bash
# Loads a server with ranks under MPICH's hydra, and merges their records:
#
#   contrib/mpi/hydra.sh host1:2,host2:2 SERVER:8898 --conns 1000 --duration 30s
#
# That is two ranks on each host. The current directory must be shared by the hosts, and loadgen
# installed on them. mpiexec.hydra, which Intel MPI has, too, reaches them by ssh, or by the scheduler in
# whose job it runs.
set -eu

hosts=$1
shift
records=$(mktemp -d "$PWD/loadgen-XXXXXX")

# The ranks agree on the start by PMI-1. Without the option, hydra would end all ranks as soon as one is
# killed; with it, only those of the same host.
mpiexec.hydra -hosts "$hosts" -disable-auto-cleanup loadgen --ranks auto -o "$records" "$@" || true
loadgen merge "$records"
