#!/usr/bin/env python3
"""Compares a merged record with the records of its ranks: check.py [--server COUNT] MERGED RANK...

COUNT is the server's number of exchanges. Prints the figures of the run in one line. Exits with 1 if a check fails, and with 8 if the record is
INVALID or a rank was late, as on a machine that is busy with other programs. The histograms are compared
if the package hdrhistogram is there.
"""

import argparse
import json
import sys

try:
    from hdrh.histogram import HdrHistogram
except ImportError:
    HdrHistogram = None

PERCENTILES = {"p50_ns": 50, "p90_ns": 90, "p99_ns": 99, "p999_ns": 99.9, "p9999_ns": 99.99}


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
    expect(f"{name}.hdr_v2", HdrHistogram.decode(latency["hdr_v2"]).get_total_count(), total.get_total_count())
    for key, percentile in PERCENTILES.items():
        expect(f"{name}.{key}", latency[key], total.get_value_at_percentile(percentile))


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

late = [rank["rank"]["index"] for rank in ranks if not rank["rank"]["met_deadline"]]
merge = merged["merge"]
figures = [
    f"{merged['exchanges']} exchanges of {len(ranks)} ranks",
    f"start skew {merge['start_skew_us']} us ({merge['clock']})",
    f"{len(ranks) - len(late)} met the start",
]
rate = merged.get("rate")
if rate:
    share = rate["achieved_per_s"] / rate["planned_per_s"]
    figures.insert(1, f"{rate['achieved_per_s']:.1f}/s of {rate['planned_per_s']:.1f}/s ({share:.2%})")
else:
    figures.insert(1, f"{merged['throughput_per_s']:.0f}/s")
print(", ".join(figures))
if late or not merged["valid"]:
    print("INVALID:", "; ".join(merged["invalid_reasons"]) or f"late ranks {late}", file=sys.stderr)
    sys.exit(8)
if rate and abs(share - 1) > 0.005:
    sys.exit("the rate is not within 0.5 % of the plan")
