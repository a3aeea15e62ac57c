#!/usr/bin/env python3
"""Compares a merged record with the records of its ranks: check.py [--server COUNT] MERGED RANK...

COUNT is the server's number of exchanges. The histograms are compared if the package hdrhistogram is
there. Prints the figures of the run.

Exit codes: 0 ok, 1 the sum is wrong, 8 the run is INVALID, but the sum is right, 7 it is INVALID and the
rate is not that of the plan.
"""

import argparse
import json
import math
import sys

try:
    from hdrh.histogram import HdrHistogram
except ImportError:
    HdrHistogram = None

QUANTILES = {"p50_ns": 0.5, "p90_ns": 0.9, "p99_ns": 0.99, "p999_ns": 0.999, "p9999_ns": 0.9999}


def expect(name, found, expected):
    if found != expected:
        sys.exit(f"{name} is {found}, not {expected}")


def check_latency(name, latency, parts):
    """Compares a merged latency with the sum of its parts, which another implementation adds."""
    expect(f"{name}.count", latency["count"], sum(part["count"] for part in parts))
    expect(f"{name}.min_ns", latency["min_ns"], min(part["min_ns"] for part in parts))
    expect(f"{name}.max_ns", latency["max_ns"], max(part["max_ns"] for part in parts))
    if HdrHistogram is None:
        return
    total = HdrHistogram.decode(parts[0]["hdr_v2"])
    for part in parts[1:]:
        total.add(HdrHistogram.decode(part["hdr_v2"]))
    count = total.get_total_count()
    expect(f"{name}.hdr_v2", HdrHistogram.decode(latency["hdr_v2"]).get_total_count(), count)
    for key, quantile in QUANTILES.items():
        # Of 16 values, 90 % are 14.4. Python's package would take the 14th; loadgen takes the smallest
        # value that at least 90 % do not exceed.
        position = math.ceil(quantile * count)
        expect(f"{name}.{key}", latency[key], total.get_value_at_percentile(100 * position / count))


def load(path):
    with open(path) as file:
        return json.load(file)


arguments = argparse.ArgumentParser(usage=__doc__)
arguments.add_argument("--server", type=int)
arguments.add_argument("merged", type=load)
arguments.add_argument("ranks", type=load, nargs="+")
arguments = arguments.parse_args()
merged, ranks = arguments.merged, arguments.ranks
if arguments.server is not None:
    sent = merged["sent"]["total"]
    if not merged["exchanges"] <= arguments.server <= sent:
        sys.exit(f"the server counted {arguments.server} exchanges, of {sent} requests")
for key in ["exchanges", "conns", "errors_total"]:
    expect(key, merged[key], sum(rank[key] for rank in ranks))
expect("rows", [row["rank"]["index"] for row in merged["ranks"]], sorted(rank["rank"]["index"] for rank in ranks))
names = {name for rank in ranks for name in rank["latency"]}
expect("latencies", set(merged["latency"]), names)
for name in sorted(names):
    parts = [rank["latency"][name] for rank in ranks if name in rank["latency"]]
    check_latency(name, merged["latency"][name], parts)

met = sum(rank["rank"]["met_deadline"] for rank in ranks)
merge = merged["merge"]
rate = merged.get("rate")
server = merged.get("server", {}).get("cpu_us_per_exchange")
share = rate["achieved_per_s"] / rate["planned_per_s"] if rate else 1
print(
    f"{merged['exchanges']} exchanges",
    f"{rate['achieved_per_s']:.1f}/s ({share:.2%} of the plan)" if rate else f"{merged['throughput_per_s']:.0f}/s",
    f"server {server:.1f} us of CPU each" if server else "server's CPU unknown",
    f"start skew {merge['start_skew_us']} us ({merge['clock']})",
    f"{met} of {merge['expected']} met the start",
    sep=", ",
)
if not merged["valid"]:
    kinds = sorted({reason.split(":")[0] for reason in merged["invalid_reasons"]})
    print(f"INVALID ({', '.join(kinds)})")
if abs(share - 1) > 0.005:
    print("the rate is not within 0.5 % of the plan")
    sys.exit(1 if merged["valid"] else 7)
sys.exit(0 if merged["valid"] else 8)
