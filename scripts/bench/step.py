"""Speed of one training step against a plain GPT, `transformers`, and the machine's own limit, in the same run.

    python scripts/bench/step.py [--vocab 256] [--rounds 20] [--threads 2] [--json FILE] [key=value ...]

Ratios are of the fastest step of each (others may use the machine), with those of the medians beside them. The
project's float32 losses are compared with the plain model's, step by step, from the same weights on the same batches.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from duel import Contender, duel

HERE = Path(__file__).parent


def measure(vocab_size: int, rounds: int, threads: int, settings: list[str]) -> dict[str, Any]:
    """Times, ratios, share of the roof and the largest difference of losses."""
    from roof import flops

    from recsysml.engine.device import bf16_is_fast, device_name, prepare, torch

    precision = "bf16" if bf16_is_fast("cpu") else "fp32"
    prepare("cpu", precision)
    path = str(HERE / "contenders.py")
    size = [str(vocab_size), str(threads)]
    contenders = [
        Contender("plain", [path, "plain", *size]),
        Contender("plain + fused AdamW + compile", [path, "tuned", *size]),
        Contender("ours", [path, "ours", *size, *settings]),
        Contender("ours, modern + Muon", [path, "ours", *size, *MODERN, *settings]),
        Contender("roof", [str(HERE / "roof.py"), *size, precision, torch.get_float32_matmul_precision()]),
    ]
    if precision == "bf16":  # elsewhere ours is exact already
        contenders.insert(3, Contender("ours, fp32", [path, "ours", *size, *settings, "precision=fp32"]))
    if importlib.util.find_spec("transformers"):
        contenders.insert(1, Contender("transformers", [path, "transformers", *size]))
    else:
        print("transformers is not installed: that peer is left out", file=sys.stderr)
    duel(contenders, rounds)
    by_name = {contender.name: contender for contender in contenders}
    plain, ours, roof = by_name["plain"], by_name["ours"], by_name["roof"]
    exact = by_name.get("ours, fp32", ours)
    return {
        "vocab": vocab_size,
        "threads": threads,
        "device": device_name(torch.device("cpu")),
        "precision": precision,
        "roof_gflops": flops(vocab_size) / roof.best / 1e9,
        "loss_difference": max(abs(a - b) for a, b in zip(plain.values, exact.values, strict=True)),
        "steps_compared": len(exact.values),
        "contenders": {
            name: {
                "best_ms": contender.best * 1e3,
                "median_ms": contender.median * 1e3,
                "ratio": plain.best / contender.best,
                "median_ratio": plain.median / contender.median,
                "roof_share": roof.best / contender.best,
            }
            for name, contender in by_name.items()
        },
    }


MODERN = ["optimizer=muon", "position=rope", "norm=rmsnorm", "mlp=swiglu", "qk_norm=true", "bias=false"]


def show(result: dict[str, Any]) -> None:
    print(
        f"\n6 layers, 384 wide, 12 x 256 tokens, vocabulary {result['vocab']}, {result['threads']} threads, "
        f"{result['precision']}, {result['device']}"
    )
    print(f"{'':32}{'best ms':>10}{'median':>10}{'x plain':>10}{'median':>10}{'of roof':>10}")
    for name, row in result["contenders"].items():
        times = f"{row['best_ms']:10.0f}{row['median_ms']:10.0f}"
        print(f"{name:32}{times}{row['ratio']:10.2f}{row['median_ratio']:10.2f}{row['roof_share']:10.0%}")
    print(
        f"roof {result['roof_gflops']:.0f} GFLOP/s; largest difference of our fp32 and plain's loss over "
        f"{result['steps_compared']} steps: {result['loss_difference']:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*", help="fields of the project's trainer or model, as compile=false")
    arguments = parser.parse_args()
    result = measure(arguments.vocab, arguments.rounds, arguments.threads, arguments.settings)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
