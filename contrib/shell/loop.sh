#!/usr/bin/env bash
# Loads a server with several processes on this machine, and merges their records:
#
#   contrib/shell/loop.sh 4 SERVER:8898 --conns 100k --duration 30s
#
# Each process has its own limit of open files, and can have CPUs and a network namespace of its own.
set -eu

ranks=$1
shift
records=$(mktemp -d "$PWD/loadgen-XXXXXX")

# 3 s ahead, or LEAD seconds, which must be long enough for the last rank to connect.
start=$(($(date +%s) + ${LEAD:-3}))
for ((rank = 0; rank < ranks; rank++)); do
    loadgen --rank $rank --ranks "$ranks" --start-at "$start" -o "$records" "$@" &
done
wait
loadgen merge "$records"
