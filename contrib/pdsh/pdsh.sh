#!/usr/bin/env bash
# Loads a server with ranks that pdsh(1) starts, and merges their records:
#
#   contrib/pdsh/pdsh.sh host1,host1,host2,host2 SERVER:8898 --conns 1000 --duration 30s
#
# That is two ranks on each host. The current directory must be shared by the hosts, and loadgen
# installed on them.
set -eu

hosts=$1
shift
IFS=, read -ra list <<<"$hosts"
ranks=${#list[@]}
records=$(mktemp -d "$PWD/loadgen-XXXXXX")

# pdsh replaces %h with the host and %n with its position in the list. Its module exec, unlike ssh, has
# %n. It runs at most 32 commands at the same time, or as many as -f says: fewer than all would start the
# last ranks after the end of the first. The start is 10 s ahead, or LEAD seconds, which must be long
# enough for the last rank to connect.
pdsh -R exec -f "$ranks" -w "$hosts" \
    ssh -n %h loadgen --rank %n --ranks "$ranks" --start-at $(($(date +%s) + ${LEAD:-10})) \
    -o "${records@Q}" "${@@Q}" || true
loadgen merge "$records"
