"""MMoE on KuaiRand's extract beside other libraries: rows a second, the share of the roof, and AUC on the same rows.

    python scripts/bench/ranking.py [--peers PYTHON] [--rounds 10] [--quality] [--folder DIR] [--json FILE]

--peers: an interpreter that has deepctr-torch and torch-rechub; without it plain torch alone stands beside ours. One is
made by
    python3.11 -m venv peers && peers/bin/pip install torch==2.13.0 pandas scikit-learn scipy tqdm requests
    peers/bin/pip install --no-deps deepctr-torch==0.3.0 torch-rechub==0.9.0
--quality: `train experiment=kuairand -m` and three seeds of each peer, paired bootstrap over the rows of test.
--folder: keeps the peers' scores, and does not make anew those that are there.

30 columns of ids, 16 wide, 14 numbers, 4 experts 256-128, 3 tasks with a tower of 64, batches of 512. One thread each;
ours at the precision of its default and in float32, peers as they come; blocks of ten steps in turn, processor time, so
that what others do on the machine is not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from duel import Contender, duel

from recsysml.engine.device import resolve_precision

HERE = Path(__file__).parent
BLOCK, BATCH = 10, 512
TASKS = ("long_view", "profile_enter")
PEERS = ("deepctr_torch", "torch_rechub")
SEEDS, EPOCHS, RATES = (1, 2, 3), 4, ("1e-3", "3e-3")
NORM = ["model.norm=batch", "trainer.rows_per_user=16"]
ANY_ORDER = ["trainer.rows_per_user=1"]
DEFAULT = ["model.history=din", "model.interaction=dcn"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def write_rows(folder: str) -> Any:
    """KuaiRand as our ranker takes it, for the peers; returns the table."""
    from recsysml.data import kuairand
    from recsysml.schemas.impressions import KuaiRandConfig

    table = kuairand.load_impressions(KuaiRandConfig(fit_range="train_val"))
    at = table.bounds | {"train_val": table.fitted}
    sizes = np.array(list(table.shape.sparse.values()))
    np.savez(Path(folder) / "rows.npz", dense=table.dense, sparse=table.sparse, labels=table.labels, sizes=sizes, **at)
    return table


def speed(folder: str, peers: str | None, rounds: int) -> dict[str, Any]:
    """Rows a second of each contender, and of two roofs at the precision of ours, products alone: those that it forms,
    and those of all rows written out."""
    theirs, ours = str(HERE / "ranking_peers.py"), [str(HERE / "ranking_ours.py"), str(BLOCK)]
    precision = resolve_precision("auto", "cpu")
    contenders = [Contender("ours", [*ours, precision, "threads=1"], ONE_THREAD)]
    contenders.append(Contender("ours, rows in any order", [*ours, precision, *ANY_ORDER, "threads=1"], ONE_THREAD))
    # with a norm over the batch before every ReLU, as torch-rechub has
    contenders.append(Contender("ours, norm", [*ours, precision, *NORM, "threads=1"], ONE_THREAD))
    contenders.append(Contender("ours, DIN and crosses", [*ours, precision, *DEFAULT, "threads=1"], ONE_THREAD))
    if precision != "fp32":
        contenders.append(Contender("ours, fp32", [*ours, "fp32", "threads=1"], ONE_THREAD))
    for matmul in ("highest", "medium"):
        named = ", products as ours" if matmul == "medium" else ""
        for who in ("plain", *(PEERS if peers else ())):
            command = [theirs, who, folder, "serve", matmul]
            interpreter = sys.executable if who == "plain" else str(peers)
            contenders.append(Contender(who + named, command, ONE_THREAD, interpreter=interpreter))
    duel(contenders, rounds, warm_up=1)
    rates = {each.name: BLOCK * BATCH / statistics.median(each.cpu_seconds) for each in contenders}
    roofs = {
        each.name: [BLOCK * BATCH / statistics.median(each.values[2 + which :: 2]) for which in range(2)]
        for each in contenders
        if each.name in ("ours", "ours, fp32")
    }
    return {"precision": precision, "rows_per_second": rates, "roofs": roofs}


def ours_on_test(table: Any) -> np.ndarray:
    """(seeds, n, tasks) logits of the experiment's rankers."""
    from recsysml.cli import main as recsysml
    from recsysml.ranking.opening import open_ranker
    from recsysml.ranking.scoring import logits

    found = []
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "experiment=kuairand", "-m", "threads=1", f"outputs={folder}", "tracker.mode=disabled"]
        if recsysml([*words, "eval.baselines=[]"]):
            raise SystemExit("the experiment failed; its error is above")
        (sweep,) = Path(folder).glob("sweep/*/sweep.json")
        for job in json.loads(sweep.read_text())["jobs"]:
            opened = open_ranker(sweep.parent / job["path"] / "checkpoints" / "last")
            scores = logits(opened.model, table, table.bounds["test"], batch_size=4096)
            found.append(scores[:, [opened.model.tasks.index(task) for task in TASKS]])
    return np.stack(found)


def peer_on_test(who: str, python: str, table: Any, folder: str) -> tuple[np.ndarray, list[str]]:
    """(seeds, n, tasks) probabilities, and what val chose for each seed: the rate and the number of epochs."""
    columns = [list(table.shape.tasks).index(task) for task in TASKS]
    found, chosen = [], []
    for seed in SEEDS:
        best: tuple[float, str, int, np.ndarray] | None = None
        for rate in RATES:
            out = f"{folder}/{who}-{seed}-{rate}"
            command = [python, str(HERE / "ranking_peers.py"), who, folder, "score", out, str(seed), rate, str(EPOCHS)]
            if not Path(f"{out}-test.npy").is_file():
                subprocess.run(command, check=True)
            val, test = (np.load(f"{out}-{split}.npy")[..., columns] for split in ("val", "test"))  # (epochs, n, tasks)
            for epoch, scores in enumerate(val):
                value = float(np.mean(aucs(scores, table, "val")))
                if best is None or value > best[0]:
                    best = value, rate, epoch + 1, test[epoch]
        assert best is not None
        found.append(best[3])
        chosen.append(f"{best[1]}, {best[2]} epochs")
    return np.stack(found), chosen


def aucs(scores: np.ndarray, table: Any, split: str) -> list[float]:
    from recsysml.metrics.ranking import auc

    return [auc(scores[:, place], labels(table, split, task))[0] for place, task in enumerate(TASKS)]


def labels(table: Any, split: str, task: str) -> np.ndarray:
    return table.labels[slice(*table.bounds[split]), list(table.shape.tasks).index(task)].astype(np.float64)


def resampled(scores: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """scores, y (n,), counts (R, n) how often each row was drawn -> (R,) AUC of each draw, ties counted half."""
    order = np.argsort(scores, kind="stable")
    _, group = np.unique(scores[order], return_inverse=True)
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    drawn, positive = counts[:, order], y[order]
    up = np.add.reduceat(drawn * positive, begins, axis=1)  # (R, values)
    down = np.add.reduceat(drawn * (1 - positive), begins, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    return (up * below).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))


def quality(folder: str, peers: str | None, table: Any, draws: int = 1000) -> dict[str, Any]:
    """AUC on test of each seed, and ours less each peer's in the mean over seeds, with its interval: the same rows are
    drawn for both."""
    scores, chosen = {"ours": ours_on_test(table)}, {}
    for who in PEERS if peers else ():
        scores[who], chosen[who] = peer_on_test(who, str(peers), table, folder)
    n = table.sizes["test"]
    counts = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    found: dict[str, Any] = {"chosen": chosen, "auc": {}, "difference": {}}
    for place, task in enumerate(TASKS):
        y, by_draw = labels(table, "test", task), {}
        for who, own in scores.items():
            by_draw[who] = np.mean([resampled(one[:, place], y, counts) for one in own], axis=0)
            found["auc"][f"{who} {task}"] = [aucs(one, table, "test")[place] for one in own]
        for who in scores:
            if who != "ours":
                gap = by_draw["ours"] - by_draw[who]
                found["difference"][f"{who} {task}"] = [float(gap.mean()), *np.quantile(gap, [0.025, 0.975]).tolist()]
    return found


def show(found: dict[str, Any]) -> None:
    rates = found.get("rows_per_second", {})
    for who, rate in rates.items():
        print(f"{who:40}{rate:10,.0f} rows/s   ours is {rates['ours'] / rate:.2f} times")
    for who, roofs in found.get("roofs", {}).items():
        for which, roof in zip(("that are formed", "of rows written out"), roofs, strict=True):
            print(f"{f'{who}: products {which}':40}{roof:10,.0f} rows/s   {rates[who] / roof:.0%} of it")
    for name, values in found.get("auc", {}).items():
        print(f"test AUC {name:30} {np.mean(values):.4f}   seeds {', '.join(f'{value:.4f}' for value in values)}")
    for name, (mean, low, high) in found.get("difference", {}).items():
        print(f"ours less {name:30} {mean:+.4f}   [{low:+.4f}, {high:+.4f}]")
    for who, settings in found.get("chosen", {}).items():
        print(f"{who}: by val {'; '.join(settings)}")


def possible() -> bool:
    """Whether KuaiRand's extract is there."""
    from recsysml.data import kuairand
    from recsysml.errors import DataError
    from recsysml.schemas.impressions import KuaiRandConfig

    try:
        kuairand.check(KuaiRandConfig())
    except DataError:
        return False
    return True


def measure(peers: str | None, rounds: int) -> dict[str, Any]:
    """Speed alone."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(folder)
        return speed(folder, peers, rounds)


def row(result: dict[str, Any]) -> tuple[str, str, str, str]:
    """Work, what was to be reached, what was reached, and beside what: for the table of all benchmarks."""
    rates, roofs = result["rows_per_second"], result["roofs"]
    peers = [f"{name} {rate / rates['ours']:.2f}x" for name, rate in rates.items() if name != "ours"]
    shares = [f"{rates[name] / roof[0]:.0%} of the roof ({name})" for name, roof in roofs.items()]
    reached = f"{rates['ours']:,.0f} rows/s, {result['precision']}; {', '.join(shares)}"
    work, reach = (
        "MMoE on KuaiRand, one thread",
        "3x deepctr-torch, 4x torch-rechub; 70% of the fp32 roof, 50% of bf16's",
    )
    return work, reach, reached, "; ".join(peers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.peers:
        print("no --peers: ours and plain torch alone; `--help` says how the peers are installed", file=sys.stderr)
    with tempfile.TemporaryDirectory() as made:
        folder = str(arguments.folder or made)
        Path(folder).mkdir(parents=True, exist_ok=True)
        table = write_rows(folder)
        found = speed(folder, arguments.peers, arguments.rounds) if arguments.rounds else {}
        if arguments.quality:
            found |= quality(folder, arguments.peers, table)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
