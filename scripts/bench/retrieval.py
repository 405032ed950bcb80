"""Finding items: exact top-k against torch, an approximate index against exact, two stages, the world, 1M ids in JSON.

    python scripts/bench/retrieval.py [--rounds 5] [--train]

One thread each, interleaved, processor time: what others do on the machine is not in it; exact search on two threads
as well, there by the clock. `--train` trains a sasrec on a large world first, and judges the index on its vectors;
without it the index is left out, since vectors that are drawn at random are nothing like trained ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from recsysml.environment import usable_cores
from recsysml.retrieval import index
from recsysml.retrieval.exact import BLOCK_ITEMS, BLOCK_QUERIES, exact_top_k

K = 100


def interleaved(
    contenders: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median processor seconds of each, one after the other, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            started = clock()
            work()
            if turn:
                seconds[name].append(clock() - started)
    return {name: statistics.median(each) for name, each in seconds.items()}


def exact(n_items: int = 100_000, width: int = 64, n_queries: int = 512, rounds: int = 5) -> dict[str, Any]:
    """Our exact search against torch's product and topk of all queries at once and against faiss, whether ours and
    torch's find the same, and the roof: the products alone, in the blocks that ours forms, put nowhere."""
    random = np.random.default_rng(1)
    items = random.normal(size=(n_items, width)).astype(np.float32)
    queries = random.normal(size=(n_queries, width)).astype(np.float32)
    left, right = torch.from_numpy(queries), torch.from_numpy(items)

    def products() -> None:
        held = torch.empty(BLOCK_ITEMS, min(BLOCK_QUERIES, n_queries))
        for asked in left.split(BLOCK_QUERIES):
            turned = asked.T.contiguous()
            for part in right.split(BLOCK_ITEMS):
                torch.mm(part, turned, out=held[: len(part), : len(asked)])

    contenders = {
        "ours": lambda: exact_top_k(queries, items, K),
        "torch": lambda: (left @ right.T).topk(K, dim=1),
        "faiss": lambda: faiss.knn(queries, items, K, metric=faiss.METRIC_INNER_PRODUCT),
        "products": products,
    }
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = interleaved(contenders, rounds, clock)
    ours, theirs = exact_top_k(queries, items, K)[0], (left @ right.T).topk(K, dim=1).indices.numpy()
    return {**seconds, "ratio": seconds["torch"] / seconds["ours"], "same": float((ours == theirs).mean())}


def trained(n_items: int = 100_000, steps: int = 1000) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Vectors (I, C) of items and (R, C) of users of a sasrec trained for so many steps on a large world, and what it
    finds beside popularity. The users asked for are the test's, with all that was known of them by then."""
    from recsysml import config, lazy
    from recsysml.cli import main
    from recsysml.data import KINDS
    from recsysml.retrieval.opening import open_retriever
    from recsysml.retrieval.questions import before

    with tempfile.TemporaryDirectory() as folder:
        size = [f"data.items={n_items}", f"data.users={n_items // 10}", f"data.events={20 * n_items}"]
        how = [
            "trainer=retrieval_with/mixed_negatives",
            "model.normalise=true",
            f"trainer.max_steps={steps}",
            "trainer.lr=3e-3",
            "trainer.patience=0",
        ]
        quick = ["eval.baselines=[popularity]", "trainer.eval_every=0", "trainer.index=flat", "tracker.mode=disabled"]
        words = [*size, *how, *quick, "threads=1", "device=cpu", f"outputs={folder}"]
        assert main(["train", "model=sasrec", *words]) == 0
        (path,) = Path(folder).glob("train/*")
        settings = config.read_run(path).data
        data = lazy.resolve(f"{KINDS[settings.kind]}:load")(settings)
        retriever: Any = open_retriever(path / "checkpoints" / "best").retriever
        users = np.unique(data.splits["test"].users)[:1000]
        metric = json.loads((path / "results.json").read_text())["metrics"]["test/recall@20"]
        told = {"recall@20": metric["value"], "popularity": metric["baseline"]}
        return retriever.item_vectors(), retriever.user_vectors(before(data, "test", users)), told


def approximate(items: np.ndarray, queries: np.ndarray, rounds: int = 5) -> dict[str, Any]:
    """An IVF index against faiss's flat one and our exact search, all queries at once, and one by one. Its width of
    search was set on every other query, its recall is that on the others."""
    made = index.build(items, queries[::2], "ivf")
    asked = np.ascontiguousarray(queries[1::2])
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(np.ascontiguousarray(items))
    single = [asked[i : i + 1] for i in range(0, len(asked), 10)]
    seconds = interleaved(
        {
            "ivf": lambda: made.search(asked, K),
            "flat": lambda: flat.search(asked, K),
            "exact": lambda: exact_top_k(asked, items, K),
            "ivf, singly": lambda: [made.search(one, K) for one in single],
            "flat, singly": lambda: [flat.search(one, K) for one in single],
        },
        rounds,
    )
    truth, found = exact_top_k(asked, items, K)[0], made.search(asked, K)[0]
    recall = float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(truth, found, strict=True)]))
    told = {"nlist": made.faiss.nlist, "nprobe": made.faiss.nprobe, "recall": recall}
    return {**seconds, "ratio": seconds["flat"] / seconds["ivf"], "items": len(items), "asked": len(asked), **told}


def stages(n_items: int = 20_000, n_users: int = 256, rounds: int = 3) -> dict[str, float]:
    """Processor milliseconds a user of multi_stage as it is by default: stage one by exact search, both stages, and
    what the ranker would take for every item."""
    from recsysml.models.histories import Histories
    from recsysml.models.multi_stage import MultiStage
    from recsysml.models.stages import StagedRetriever
    from recsysml.schemas.retrievers import MultiStageConfig

    random, length, few = np.random.default_rng(1), 50, 4
    events = random.integers(n_items, size=n_users * length)
    offsets = np.arange(n_users + 1) * length
    histories = Histories(np.full(n_users, -1), offsets, events, np.arange(len(events), dtype=np.float64))
    retriever = StagedRetriever(MultiStage(MultiStageConfig(), n_items, 1).eval())
    queries, vectors = retriever.user_vectors(histories), retriever.item_vectors()
    depth, every = retriever.n_candidates + length, np.tile(np.arange(n_items), (few, 1))

    def find() -> np.ndarray:
        return exact_top_k(queries, vectors, depth)[0]

    seconds = interleaved(
        {
            "find": find,
            "find and rank": lambda: retriever.ranked(queries, histories, find()),
            "rank all": lambda: retriever.ranked(queries[:few], histories.part(0, few), every),
        },
        rounds,
    )
    return {name: 1000 * each / (few if name == "rank all" else n_users) for name, each in seconds.items()}


def world(rounds: int = 3) -> dict[str, float]:
    """Processor seconds to make 2,000 users x 2,000 items x 100,000 events."""
    from recsysml.data.world import load
    from recsysml.schemas.data import WorldConfig

    return {"seconds": interleaved({"world": lambda: load(WorldConfig())}, rounds)["world"]}


def ids(n: int = 1_000_000) -> dict[str, float]:
    """Processor seconds to write and to read n ids as the JSON of a checkpoint, and its megabytes."""
    from recsysml.files import write_json

    names = [f"user-{i * 7919 % (10 * n)}" for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint.json"
        seconds = interleaved(
            {
                "write": lambda: write_json(file, {"ids": {"users": names}}),
                "read": lambda: json.loads(file.read_bytes()),
            },
            rounds=1,
        )
        return {**seconds, "megabytes": file.stat().st_size / 1e6}


def rows(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Work, what was to be reached, what was reached, and beside what: for the table of all benchmarks."""
    table = []
    for threads, found in result["exact"].items():
        same = f"{found['same']:.2%} of the places the same"
        faiss_ratio, roof = (found["torch"] / found[name] for name in ("faiss", "products"))
        beside = f"torch matmul + topk: 1x; faiss {faiss_ratio:.1f}x; the products alone {roof:.1f}x"
        work = f"exact top-100, 100,000 x 64, {threads} thread" + ("s" if threads != "1" else "")
        table.append((work, "3x", f"{found['ratio']:.1f}x, {same}", beside))
    told = result["stages"]
    reached = f"{told['find']:.2f} ms to find, {told['find and rank']:.2f} ms to find and rank"
    beside = f"{told['rank all']:.0f} ms to rank every item"
    table.append(("100 candidates of 20,000 items, a user", "measured", reached, beside))
    table.append(("a world of 2,000 x 2,000 x 100,000", "5 s", f"{result['world']['seconds']:.1f} s", ""))
    if "ivf" in result:
        found = result["ivf"]
        singly = found["flat, singly"] / found["ivf, singly"]
        reached = f"{found['ratio']:.1f}x ({singly:.1f}x one by one) at recall@100 {found['recall']:.4f}"
        ours = found["flat"] / found["exact"]
        beside = f"faiss Flat: 1x; our exact search {ours:.1f}x; {found['nprobe']} of {found['nlist']} cells"
        table.append((f"IVF on trained vectors of {found['items']:,} items", "8x at .99", reached, beside))
    told = result["ids"]
    reached = f"{told['write']:.1f} s to write, {told['read']:.1f} s to read, {told['megabytes']:.0f} MB"
    return [*table, ("a checkpoint's map of 1,000,000 ids", "2 s", reached, "")]


def use_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def measure(rounds: int = 5, train: bool = True) -> dict[str, Any]:
    before = torch.get_num_threads()
    try:
        found: dict[str, Any] = {"exact": {}}
        for threads in sorted({1, min(2, usable_cores())}, reverse=True):
            use_threads(threads)
            found["exact"][str(threads)] = exact(rounds=rounds)
        found |= {"stages": stages(), "world": world(), "ids": ids()}
        if train:
            *vectors, quality = trained()
            found["ivf"] = {**approximate(*vectors, rounds=rounds), **quality}
    finally:
        use_threads(before)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.train)
    for work, reach, reached, beside in rows(found):
        print(f"{work}: {reached} (to reach: {reach})" + (f"; beside {beside}" if beside else ""))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
