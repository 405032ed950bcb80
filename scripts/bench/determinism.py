"""What `trainer.deterministic=true` costs, and whether it holds: two equal runs must agree bit for bit.

python scripts/bench/determinism.py [--vocab 256] [--rounds 10] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from duel import Contender, duel

HERE = Path(__file__).parent


def measure(vocab_size: int, rounds: int, threads: int) -> dict[str, Any]:
    command = [str(HERE / "contenders.py"), "ours", str(vocab_size), str(threads)]
    first, second = Contender("deterministic", command), Contender("the same again", command)
    free = Contender("free", [*command, "deterministic=false"])
    duel([first, second, free], rounds)
    return {
        "cost": min(first.best, second.best) / free.best - 1,
        "same_bits": first.values == second.values,
        "steps": len(first.values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    result = measure(arguments.vocab, arguments.rounds, arguments.threads)
    verdict = "agree bit for bit" if result["same_bits"] else "DIFFER"
    print(f"two equal runs {verdict} over {result['steps']} steps; determinism costs {result['cost']:+.1%} of a step")


if __name__ == "__main__":
    main()
