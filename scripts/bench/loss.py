"""In what share of the steps does gpt2_modern with Muon reach the final validation loss of GPT-2 with AdamW?

    python scripts/bench/loss.py [--grid 1e-3,2e-3,4e-3] [--warmups 20,40] [--seeds 1,2,3] [--json FILE] [key=value ...]

Both arms have 3.3M parameters and read the same batches of the language reference, as bytes. Both get the same schedule
and the same grid of learning rates and lengths of warm-up, searched with the first seed, each for what it is asked:
GPT-2 for the lowest validation loss at the end, the other for the fewest steps to that loss. GPT-2 must end below gzip,
or it is no opponent. The runs go through `recsysml train` and stay in the
outputs folder; one that is there already, by its config, is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from recsysml.data.python_text import read_documents
from recsysml.metrics.language import compressed_bits_per_byte

Curve = list[tuple[int, float]]  # (step, validation loss)
Points = dict[str, list[str]]  # what is searched: a setting and its values
Point = tuple[str, ...]  # one value of each

POINTS: Points = {"trainer.lr": ["1e-3", "2e-3", "4e-3"], "trainer.warmup_steps": ["20", "40"]}

SHARED = [
    "data=python_docs",
    "data.part=reference",
    "data.tokenizer=bytes",
    "data.val_fraction=0.05",
    "data.test_fraction=0",
    "model.size=nano",
    "model.context_length=64",
    "trainer.batch_size=32",
    "trainer.max_steps=400",
    "trainer.schedule=cosine",
    "trainer.min_lr_ratio=0.1",
    "trainer.weight_decay=0.1",
    "trainer.beta2=0.99",
    "trainer.eval_every=10",
    "trainer.checkpoint_every=0",
    "trainer.sample_tokens=0",
    "tracker.mode=disabled",
]
ARMS = {
    "gpt2 + AdamW": ["model=gpt2", "trainer.optimizer=adamw"],
    "gpt2_modern + Muon": ["model=gpt2_modern", "trainer.optimizer=muon"],
}


def curves(arm: str, points: Points, seeds: list[int], extra: list[str]) -> dict[tuple[Point, int], Curve]:
    """The curve of each point and seed, by one sweep; jobs that are done are not done again."""
    outputs, name = Path("outputs/bench"), "bench-modern" if "modern" in arm else "bench-classic"
    words = [*ARMS[arm], *SHARED, *extra, f"outputs={outputs}", f"sweep.name={name}"]
    swept = [f"{key}={','.join(values)}" for key, values in points.items()]
    command = [sys.executable, "-m", "recsysml", "train", *words, *swept, f"seed={','.join(map(str, seeds))}", "-m"]
    print("$ recsysml", *command[3:], flush=True)
    subprocess.run(command, check=True)
    folder = outputs / "sweep" / name
    found: dict[tuple[Point, int], Curve] = {}
    for job in json.loads((folder / "sweep.json").read_text())["jobs"]:
        run = folder / job["path"]
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        typed = dict(word.split("=", 1) for word in job["overrides"])
        point = tuple(typed[key] for key in points)
        found[point, int(typed["seed"])] = [(r["step"], r["val/loss"]) for r in rows if "val/loss" in r]
    return found


def gzip_nats_per_byte() -> float:
    """What gzip -9 needs for the whole language reference: less than for the validation part alone, so a higher bar."""
    text = "".join(document.text for document in read_documents("reference")).encode()
    return compressed_bits_per_byte(text)["gzip"] * math.log(2)


def chosen(arm: str, points: Points, seeds: list[int], extra: list[str], target: float | None = None) -> dict[str, Any]:
    """The arm at its best point, by the steps to `target` where there is one, else (and between equals) by its end:
    {point, searched: point -> [final loss, step it is at or below the target], curves: one for each seed}."""
    tried = {point: curve for (point, _), curve in curves(arm, points, seeds[:1], extra).items()}
    steps = {point: None if target is None else reached(curve, target) for point, curve in tried.items()}
    best = min(tried, key=lambda point: (steps[point] or math.inf, tried[point][-1][1]))
    alone = {key: [value] for key, value in zip(points, best, strict=True)}
    return {
        "point": dict(zip(points, best, strict=True)),
        "searched": {" ".join(point): [curve[-1][1], steps[point]] for point, curve in tried.items()},
        "curves": [*curves(arm, alone, seeds, extra).values()],
    }


def reached(curve: Curve, target: float) -> int | None:
    """The first step whose validation loss is at or below `target`."""
    return next((step for step, loss in curve if loss <= target), None)


def measure(points: Points, seeds: list[int], extra: list[str]) -> dict[str, Any]:
    names = list(ARMS)
    classic = chosen(names[0], points, seeds, extra)
    modern = chosen(names[1], points, seeds, extra, target=classic["curves"][0][-1][1])
    arms = dict(zip(names, (classic, modern), strict=True))
    steps = classic["curves"][0][-1][0]
    finals = [curve[-1][1] for curve in classic["curves"]]
    # each seed against its own opponent: the same batches in the same order
    gzip = gzip_nats_per_byte()
    shares = [reached(curve, final) for curve, final in zip(modern["curves"], finals, strict=True)]
    return {
        "arms": arms,
        "classic_final": finals,
        "modern_final": [curve[-1][1] for curve in modern["curves"]],
        "share_of_steps": [None if step is None else step / steps for step in shares],
        "gzip": gzip,
        "classic_beats_gzip": max(finals) < gzip,
    }


def show(result: dict[str, Any]) -> None:
    for arm, found in result["arms"].items():
        searched = ", ".join(
            f"{point}: {loss:.3f}" + ("" if step is None else f" (there at step {step})")
            for point, (loss, step) in found["searched"].items()
        )
        print(f"{arm}: {' '.join(f'{key}={value}' for key, value in found['point'].items())} of {searched}")
    print(
        "gpt2 + AdamW ends at",
        *(f"{loss:.3f}" for loss in result["classic_final"]),
        f"nats/byte (gzip {result['gzip']:.3f})",
    )
    print("gpt2_modern + Muon ends at", *(f"{loss:.3f}" for loss in result["modern_final"]))
    shares = result["share_of_steps"]
    print(
        "and reaches the other's end in",
        *("never" if share is None else f"{share:.1%}" for share in shares),
        "of the steps",
    )
    if None not in shares:
        print(f"mean {statistics.mean(shares):.1%} (reach 25%, moon 12%)")
    if not result["classic_beats_gzip"]:
        print("GPT-2 does not beat gzip: it is no opponent yet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default=",".join(POINTS["trainer.lr"]))
    parser.add_argument("--warmups", default=",".join(POINTS["trainer.warmup_steps"]))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*", help="overrides for both arms")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    points = {"trainer.lr": arguments.grid.split(","), "trainer.warmup_steps": arguments.warmups.split(",")}
    result = measure(points, seeds, arguments.settings)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
