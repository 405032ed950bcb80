"""Next-item training of a retriever: data, model and what a step's loss is, handed to the loop."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.interaction_data import Interactions, warn_of_split
from recsysml.data.sequence_batches import IGNORE, SequenceBatches
from recsysml.engine import checkpoint, device, record, seeds, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Task, fit
from recsysml.errors import DataError
from recsysml.evals import retrieval as evals
from recsysml.losses.hierarchical_softmax import huffman_tree
from recsysml.models import heads
from recsysml.models.encoder import EncoderRetriever
from recsysml.models.histories import Histories
from recsysml.models.trimming import by_length
from recsysml.nn.age_bias import AgeBias
from recsysml.nn.graph_attention import Graph
from recsysml.retrieval import index
from recsysml.retrieval.co_occurrence import item_clusters
from recsysml.retrieval.feature_matrix import feature_matrix
from recsysml.retrieval.graphs import graphs
from recsysml.retrieval.opening import build, metadata
from recsysml.retrieval.questions import questions, training
from recsysml.retrieval.rank_loss import RankLoss
from recsysml.retrieval.row_loss import RowLoss
from recsysml.retrieval.teacher import take_towers, teacher_of
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Train, keep the best weights by validation NDCG, judge val and test once with them beside the baselines.

    `config` is resolved (no `auto`). A run directory with checkpoints is resumed from its newest whole one. Under
    torchrun every process calls this; `run` is None in all but the main one.
    """
    with start.training(config) as (machine, world):
        _train(config, run, machine, world)


def _train(config: RunConfig, run: Any, machine: Machine, world: World) -> None:
    settings = config.trainer
    with world.main_first():
        data: Interactions = lazy.resolve(f"{DATA[config.data.kind]}:load")(config.data)
    if world.main:
        warn_of_split(data)
    mask_seen = config.data.mask_seen
    asked = {split: questions(data, split, mask_seen=mask_seen) for split in ("val", "test")}
    events = training(data)
    seeds.seed_everything(config.seed)
    known: dict[str, Tensor | Graph] = {**(_features(data) if config.model.reads_features else {})}
    known |= graphs(config.model, data, events)
    model = build(config.model, len(data.item_ids), len(data.user_ids), **known)
    folder = Path(world.share(str(run.path) if world.main else "")) / "checkpoints"
    resume = checkpoint.latest_good(folder)
    towers = getattr(model, "towers", model)
    if hasattr(towers, "user_events"):
        towers.user_events[:-1] = torch.from_numpy(events.lengths)
    if settings.loss in heads.KINDS:
        heads.attach(model, _head(config, events, model.n_items, resume, world))
    if settings.debias == "age":
        model.age_bias = _age_bias(data, events, model.n_items)
    if resume is None and getattr(config.model, "init_from", None):
        take_towers(model, data, machine.device)
    model.to(machine.device)
    rank_loss = None
    if hasattr(model, "ranker"):
        rank_loss = RankLoss(model, teacher_of(config.model, data, events, machine.device), mask_seen=mask_seen)
    if world.rank:
        seeds.seed_everything(config.seed + world.rank)  # every process its own dropout and negatives

    if world.main:
        protocol = evals.protocol(data, asked, mask_seen=mask_seen)
        parameters = record.begin(run, data, config.model, model, protocol, machine, resume)
        logger.info(
            "%s: %s parameters on %s, %s; %s events of %s to learn from",
            *(config.model.name, parameters, device.device_name(machine.device), machine.precision),
            *(f"{len(data.fitted):,}", data.name),
        )

    batches = SequenceBatches(
        events.offsets,
        events.items,
        events.users,
        times=events.times - events.times.min() if settings.debias == "age" else None,
        n_items=model.n_items,
        length=model.context_length,
        batch_size=settings.batch_size,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
    )
    counts = torch.from_numpy(events.matrix(model.n_items).sum(axis=0)).to(machine.device)  # (I,)
    head, bias = getattr(model, "head", None), getattr(model, "age_bias", None)
    row_loss = RowLoss(
        settings,
        counts,
        torch.from_numpy(events.lengths).to(machine.device),
        head=head,
        bias=bias,
        pool=getattr(model, "pool", None),
    )

    # one pass for all rows where passes are dear (accelerators), have a fixed shape (compiled) or must be as many in
    # every process
    trims = machine.device.type == "cpu" and not settings.compile and world.size == 1

    def loss(
        forward: nn.Module, inputs: Tensor, targets: Tensor, users: Tensor, times: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        lengths = (targets != IGNORE).sum(dim=1).clamp(min=1)  # (B,)
        states = by_length(forward, inputs, users, lengths) if trims else forward(inputs, users)  # (B, T, C)
        items = model.item_matrix() if row_loss.reads_items else None
        if rank_loss is None:
            value = row_loss(states, items, targets, users, times)
            return value, {"train/loss": value}
        assert items is not None
        ranking = rank_loss(states, items, inputs, targets, users)
        if not states.requires_grad:  # towers of another run
            return ranking, {"train/loss": ranking}
        finding = row_loss(states, items, targets, users, times)
        return finding + ranking, {"train/loss": finding, "train/rank_loss": ranking}

    how: dict[str, Any] = {"mask_seen": mask_seen, "ks": config.eval.ks, "batch_size": config.eval.batch_size}
    best_by = f"val/ndcg@{config.eval.ks[0]}"

    def evaluate(step: int) -> dict[str, float]:
        return evals.judge(heads.retriever_of(model, machine.device), asked["val"], **how).values("val")

    fitted = fit(
        model,
        batches,
        Task(
            loss=loss,
            weight=lambda batch: max(1, int((batch[1] != IGNORE).sum())),
            evaluate=evaluate,
            best_by=best_by,
            higher_is_better=True,
            unit="events/s",
        ),
        settings,
        run,
        machine=machine,
        world=world,
        metadata=metadata(
            config.model,
            config.model.name,
            data,
            known,
            head=settings.loss if head is not None else None,
        ),
        resume=resume,
        progress=config.progress,
    )
    if not world.main:
        return
    chosen = record.put_chosen_back(model, folder, data.fit_range)
    retriever = heads.retriever_of(model, machine.device)
    simple = evals.baselines(config.eval.baselines, data, asked, **how)
    stages = evals.first_stage(run, retriever, asked, **how)
    for split, part in asked.items():
        judged = evals.judge(retriever, part, **how, whole=True)
        evals.record(run, split, judged, simple[split] | stages[split], part, data)
        logger.info("%s", evals.sentence(split, judged, simple[split] | stages[split]))
    if isinstance(retriever, EncoderRetriever):
        _index(run, retriever, asked["test"].histories, settings.index)
    else:
        logger.info("no index: under trainer.loss=%s scores are no products of vectors", settings.loss)
    record.finish(run, fitted, best_by, chosen)


def _features(data: Interactions) -> dict[str, Tensor]:
    """What the data knows of items and users, each as a matrix standardised on the events learnt from."""
    found = {
        "item_features": feature_matrix(data.item_features, data.fitted.items),
        "user_features": feature_matrix(data.user_features, data.fitted.users),
    }
    return {name: torch.from_numpy(matrix) for name, matrix in found.items() if matrix is not None}


def _head(
    config: RunConfig, events: Histories, n_items: int, resume: checkpoint.Checkpoint | None, world: World
) -> nn.Module:
    """The head of loss=hierarchical or cluster: its tree or clusters are made once, and a resumed run keeps them."""
    settings, width = config.trainer, config.model.d_model
    if resume is not None:
        return heads.restored(settings.loss, resume.tensors)
    if settings.loss == "hierarchical":
        return heads.HierarchicalHead(
            width, huffman_tree(np.bincount(events.items, minlength=n_items)), settings.temperature
        )
    n_clusters = settings.clusters or max(1, round(math.sqrt(n_items)))
    # clustered in one process: k-means need not give another the same bits
    assignment = world.share(item_clusters(events, n_items, n_clusters, config.seed) if world.main else None)
    return heads.ClusterHead(width, torch.from_numpy(assignment), settings.temperature)


def _age_bias(data: Interactions, events: Histories, n_items: int) -> AgeBias:
    """For ages since an item's first event. Raises DataError where the data has no times."""
    if not data.timed or not np.ptp(events.times) > 0:
        raise DataError(f"{data.name} has no times that ages could be of: set trainer.debias=none")
    times = events.times - events.times.min()
    born = np.full(n_items, np.inf)
    np.minimum.at(born, events.items, times)
    return AgeBias(torch.from_numpy(born), float(times.max()))


def _index(run: Any, retriever: EncoderRetriever, histories: Histories, kind: str) -> None:
    """Write the item vectors' index, and what of the exact answers it finds for the test's users."""
    items = retriever.item_vectors()
    queries = retriever.user_vectors(histories.part(0, index.MEASURED_QUERIES)).reshape(-1, items.shape[1])
    made = index.build(items, queries, kind)
    made.save(run.path / "index")
    recall = made.description[f"recall@{index.RECALL_AT}"]
    run.metric(f"test/index_recall@{index.RECALL_AT}", recall, stderr=None, n=len(queries), better="higher")
    run.artifact("index", "index")
    logger.info(
        "%s index of %s items, recall@%s %.4f",
        made.description["kind"],
        len(items),
        index.RECALL_AT,
        recall,
    )
