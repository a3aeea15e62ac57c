#!/usr/bin/env bash
# Loads a server with ranks that GNU parallel starts, and merges their records:
#
#   contrib/parallel/parallel.sh host1,host2 2 SERVER:8898 --conns 1000 --duration 30s
#
# That is two ranks on each host. The current directory must be shared by the hosts, and loadgen
# installed on them.
set -eu

hosts=$1 each=$2
shift 2
IFS=, read -ra list <<<"$hosts"
ranks=$((${#list[@]} * each))
records=$(mktemp -d "$PWD/loadgen-XXXXXX")

# {#} is the number of the job, from 1. With fewer jobs on each host, the last ranks would start after the
# end of the first. The start is 10 s ahead, or LEAD seconds, which must be long enough for the last rank
# to connect.
# shellcheck disable=SC2016 # the shell of the host computes the rank
seq "$ranks" | parallel --sshlogin "$hosts" --jobs "$each" --max-args 0 \
    loadgen --rank '$(({#} - 1))' --ranks "$ranks" --start-at $(($(date +%s) + ${LEAD:-10})) \
    -o "${records@Q}" "${@@Q}" || true
loadgen merge "$records"
