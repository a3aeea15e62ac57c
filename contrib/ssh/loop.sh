#!/usr/bin/env bash
# Loads a server with ranks that a loop starts by ssh(1), and merges their records:
#
#   contrib/ssh/loop.sh host1,host1,host2,host2 SERVER:8898 --conns 1000 --duration 30s
#
# That is two ranks on each host. loadgen must be installed on them; they share no directory, since each
# rank prints its record.
set -eu

IFS=, read -ra hosts <<<"$1"
shift
records=$(mktemp -d "$PWD/loadgen-XXXXXX")

# 10 s ahead, or LEAD seconds, which must be long enough for the last rank to connect.
start=$(($(date +%s) + ${LEAD:-10}))
for rank in "${!hosts[@]}"; do
    ssh -n "${hosts[rank]}" loadgen --rank "$rank" --ranks ${#hosts[@]} --start-at "$start" \
        --json "${@@Q}" >"$records/rank$rank.json" &
done
wait
find "$records" -type f -empty -delete # of ranks that failed
loadgen merge "$records"
