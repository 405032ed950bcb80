"""MMoE as other libraries train it, on rows that `ranking.py` wrote: served step by step, or trained and scored.

    python ranking_peers.py WHO FOLDER serve MATMUL
    python ranking_peers.py WHO FOLDER score OUT SEED LR EPOCHS_AT_MOST

WHO is plain, deepctr_torch or torch_rechub. It runs in an interpreter of its own, which needs torch and the peer; plain
needs torch alone. Nothing of this project is imported, but for the protocol of `duel.py`.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from duel import serve
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

WIDTH, N_EXPERTS, EXPERT, TOWER, BATCH = 16, 4, [256, 128], [64], 512
# batches in what is timed at once
BLOCK = 10


class Rows:
    """dense (N, F) float32, sparse (N, S) int64, labels (N, T), the sizes of the vocabularies, and where splits are."""

    def __init__(self, folder: str) -> None:
        with np.load(Path(folder) / "rows.npz") as found:
            self.dense, self.sparse, self.labels = found["dense"], found["sparse"], found["labels"]
            self.sizes = found["sizes"].tolist()
            self.splits = {name: slice(*found[name].tolist()) for name in ("train", "val", "train_val", "test")}
        self.sparse_names = [f"s{place}" for place in range(self.sparse.shape[1])]
        self.dense_names = [f"d{place}" for place in range(self.dense.shape[1])]

    def named(self, rows: slice) -> dict[str, np.ndarray]:
        columns = {name: self.sparse[rows, place] for place, name in enumerate(self.sparse_names)}
        return columns | {name: self.dense[rows, place] for place, name in enumerate(self.dense_names)}


# what a peer gives: train(rows) for one epoch over them, and probabilities(rows) (n, T)
Trained = tuple[Callable[[slice], None], Callable[[slice], np.ndarray]]


class PlainMMoE(nn.Module):
    """As one writes it at first: a table a column, a module an expert, a gate and a tower a task."""

    def __init__(self, sizes: list[int], n_dense: int, n_tasks: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, WIDTH) for size in sizes)
        inputs = len(sizes) * WIDTH + n_dense
        self.experts = nn.ModuleList(_mlp([inputs, *EXPERT]) for _ in range(N_EXPERTS))
        self.gates = nn.ModuleList(nn.Linear(inputs, N_EXPERTS) for _ in range(n_tasks))
        self.towers = nn.ModuleList(
            nn.Sequential(_mlp([EXPERT[-1], *TOWER]), nn.Linear(TOWER[-1], 1)) for _ in range(n_tasks)
        )

    def forward(self, sparse: Tensor, dense: Tensor) -> Tensor:
        x = torch.cat([*(table(sparse[:, place]) for place, table in enumerate(self.tables)), dense], dim=1)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, n, K)
        mixed = [(gate(x).softmax(dim=1)[..., None] * experts).sum(dim=1) for gate in self.gates]
        return torch.cat([tower(own) for tower, own in zip(self.towers, mixed, strict=True)], dim=1)


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def plain(rows: Rows, lr: float) -> Trained:
    model = PlainMMoE(rows.sizes, rows.dense.shape[1], rows.labels.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    tensors = [torch.from_numpy(array) for array in (rows.sparse, rows.dense, rows.labels)]

    def train(part: slice) -> None:
        model.train()
        loader = DataLoader(TensorDataset(*(tensor[part] for tensor in tensors)), batch_size=BATCH, shuffle=True)
        for sparse, dense, labels in loader:
            loss = nn.functional.binary_cross_entropy_with_logits(model(sparse, dense), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def probabilities(part: slice) -> np.ndarray:
        model.eval()
        return model(tensors[0][part], tensors[1][part]).sigmoid().numpy()

    return train, probabilities


def deepctr_torch(rows: Rows, lr: float) -> Trained:
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import MMOE

    pairs = zip(rows.sparse_names, rows.sizes, strict=True)
    columns: list[Any] = [SparseFeat(name, vocabulary_size=size, embedding_dim=WIDTH) for name, size in pairs]
    columns += [DenseFeat(name, 1) for name in rows.dense_names]
    tasks = [f"t{place}" for place in range(rows.labels.shape[1])]
    model = MMOE(
        columns, num_experts=N_EXPERTS, expert_dnn_hidden_units=tuple(EXPERT), gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=tuple(TOWER), task_types=["binary"] * len(tasks), task_names=tasks,
        seed=torch.initial_seed() % 2**31,
    )  # fmt: skip
    model.compile(torch.optim.Adam(model.parameters(), lr=lr), loss=["binary_crossentropy"] * len(tasks), metrics=[])

    def train(part: slice) -> None:
        model.fit(rows.named(part), rows.labels[part], batch_size=BATCH, epochs=1, verbose=0)

    return train, lambda part: np.asarray(model.predict(rows.named(part), 4096))


def torch_rechub(rows: Rows, lr: float) -> Trained:
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator, PredictDataset

    pairs = zip(rows.sparse_names, rows.sizes, strict=True)
    features: list[Any] = [SparseFeature(name, size, embed_dim=WIDTH) for name, size in pairs]
    features += [DenseFeature(name) for name in rows.dense_names]
    kinds = ["classification"] * rows.labels.shape[1]
    model = MMOE(
        features, kinds, N_EXPERTS, {"dims": EXPERT, "activation": "relu"}, [{"dims": TOWER} for _ in kinds]
    )  # fmt: skip
    # weight_decay is its default
    trainer = MTLTrainer(model, kinds, optimizer_params={"lr": lr, "weight_decay": 1e-5})

    def train(part: slice) -> None:
        some = slice(part.start, part.start + 1)  # what it demands beside the rows to learn from
        loader, _, _ = DataGenerator(rows.named(part), rows.labels[part]).generate_dataloader(
            x_val=rows.named(some), y_val=rows.labels[some], x_test=rows.named(some), y_test=rows.labels[some],
            batch_size=BATCH,
        )  # fmt: skip
        trainer.train_one_epoch(loader)

    def probabilities(part: slice) -> np.ndarray:
        loader = DataLoader(PredictDataset(rows.named(part)), batch_size=4096)
        return np.asarray(trainer.predict(model, loader))

    return train, probabilities


PEERS = {"plain": plain, "deepctr_torch": deepctr_torch, "torch_rechub": torch_rechub}


def main() -> None:
    who, folder, what, *more = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # a peer says things of its own as it is imported, later too
    torch.set_num_threads(1)
    rows = Rows(folder)
    if what == "serve":
        torch.set_float32_matmul_precision(more[0])
        torch.manual_seed(1)
        train, _ = PEERS[who](rows, 1e-3)
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join()
        sys.stdout = answers
        n_blocks = rows.splits["train"].stop // (BLOCK * BATCH)

        def step(i: int) -> float:
            begin = i % n_blocks * BLOCK * BATCH
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                train(slice(begin, begin + BLOCK * BATCH))
            return 0.0

        serve(step)
        return
    out, seed, lr, epochs = more
    torch.manual_seed(int(seed))
    # after every epoch the probabilities on val, of a model that learns from train; and of one that learns from train
    # and val those on test
    for learns, judged in (("train", "val"), ("train_val", "test")):
        torch.manual_seed(int(seed))
        train, probabilities = PEERS[who](rows, float(lr))
        found = []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for _ in range(int(epochs)):
                train(rows.splits[learns])
                found.append(probabilities(rows.splits[judged]))
        np.save(f"{out}-{judged}.npy", np.stack(found))


if __name__ == "__main__":
    main()
