"""All benchmarks, one table: what was to be reached, what was reached, beside which peers and under which roof.

    python scripts/bench/run.py [--long] [--rounds 10] [--threads 2] [--peers PYTHON]

`--long` adds the loss benchmark (about an hour on a CPU). `--peers` is an interpreter with the peers of
ranking (scripts/bench/ranking.py says how it is made). Everything is written to outputs/bench/<time>.json as well.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import batcher
import determinism
import judging
import loader
import loss
import ranking
import retrieval
import retrieval_step
import scoring
import step

Row = tuple[str, str, str, str]  # work, reach, reached, peers and roof


def help_seconds(repeats: int = 10) -> dict[str, Any]:
    """The fastest `recsysml --help`, and whether it imported torch."""
    command = [sys.executable, "-m", "recsysml", "--help"]
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    imports = subprocess.run([command[0], "-X", "importtime", *command[1:]], check=True, capture_output=True, text=True)
    loaded = {line.rpartition("|")[2].strip() for line in imports.stderr.splitlines()}
    return {"seconds": min(times), "torch_imported": "torch" in loaded}


def step_row(result: dict[str, Any], reach: str) -> Row:
    rows = dict(result["contenders"])
    ours = rows.pop("ours")
    roof = rows.pop("roof")
    peers = [f"{name} {row['ratio']:.2f}x" for name, row in rows.items() if name != "plain"]
    limit = f"{ours['roof_share']:.0%} of the {result['precision']} roof ({result['roof_gflops']:.0f} GFLOP/s), itself"
    return (
        f"training step, vocabulary {result['vocab']}",
        reach,
        f"{ours['ratio']:.2f}x plain, losses within {result['loss_difference']:.0e}",
        "; ".join([*peers, f"{limit} {roof['ratio']:.2f}x"]),
    )


def loss_row(result: dict[str, Any]) -> Row:
    shares = ", ".join("never" if share is None else f"{share:.1%}" for share in result["share_of_steps"])
    finals = ", ".join(f"{value:.3f}" for value in result["classic_final"])
    ends = ", ".join(f"{value:.3f}" for value in result["modern_final"])
    return (
        "loss: steps to GPT-2's end",
        "25%, moon 12%",
        shares,
        f"GPT-2 ends at {finals} (gzip {result['gzip']:.3f}), ours {ends}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", metavar="PYTHON")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    rows: list[Row] = []

    found["help"] = help_seconds()
    torch = "torch imported" if found["help"]["torch_imported"] else "no torch"
    rows.append(("recsysml --help", "0.35 s, no torch", f"{found['help']['seconds']:.2f} s, {torch}", ""))
    found["loader"] = loader.measure()
    waits = ", ".join(f"{name} {wait:.2f} ms" for name, wait in found["loader"].items())
    rows.append(("a 20 ms step waits for its batch", "measured", waits, ""))
    found["batcher"] = batcher.measure()
    rates = f"{found['batcher']['ratio']:.0f}x, {found['batcher']['ours']:,.0f} a second"
    rows.append(("batches of sequences", "20x", rates, "a shuffled DataLoader over TensorDataset: 1x"))
    found["retrieval"] = retrieval.measure()
    rows += retrieval.rows(found["retrieval"])
    found["retrieval step"] = retrieval_step.measure()
    rows.append(retrieval_step.row(found["retrieval step"]))
    for vocab_size, reach in ((256, "3.3x, moon 5x"), (50304, "4x, moon 5x; exact fp32 2x, losses within 5e-3")):
        found[f"step {vocab_size}"] = step.measure(vocab_size, arguments.rounds, arguments.threads, [])
        step.show(found[f"step {vocab_size}"])
        rows.append(step_row(found[f"step {vocab_size}"], reach))
    found["determinism"] = determinism.measure(256, arguments.rounds, arguments.threads)
    bits = "same bits" if found["determinism"]["same_bits"] else "DIFFERENT bits"
    rows.append(("determinism", "same bits", f"{bits}, costs {found['determinism']['cost']:+.1%}", ""))
    found["contamination"] = judging.contamination()
    rows.append(judging.contamination_row(found["contamination"]))
    found["diff"] = judging.pairs()
    rows.append(judging.diff_row(found["diff"]))
    found["first score"] = judging.first_score()
    rows.append(judging.first_score_row(found["first score"]))
    if scoring.possible():
        found["scoring"] = scoring.measure(100, arguments.threads, "small")
        rows.append(scoring.row(found["scoring"]))
    if ranking.possible():
        found["ranking"] = ranking.measure(arguments.peers, arguments.rounds)
        rows.append(ranking.row(found["ranking"]))
    if arguments.long:
        found["loss"] = loss.measure(loss.POINTS, [1, 2, 3], [])
        loss.show(found["loss"])
        rows.append(loss_row(found["loss"]))

    for work, reach, reached, beside in rows:
        print(
            f"\n{work}\n    to reach  {reach}\n    reached   {reached}"
            + (f"\n    beside    {beside}" if beside else "")
        )
    if not arguments.long:
        print("\nThe loss benchmark takes about an hour on a CPU: --long")
    target = Path("outputs/bench") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1))
    print(f"\n{target}")


if __name__ == "__main__":
    main()
