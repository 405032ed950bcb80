"""Next-item training of a retriever: data, model and what a step's loss is, handed to the loop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsysml import lazy, plots
from recsysml.data import KINDS as DATA
from recsysml.data.interaction_data import Interactions
from recsysml.data.sequence_batches import IGNORE, SequenceBatches
from recsysml.engine import checkpoint, device, seeds, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted, Task, fit
from recsysml.evals import retrieval as evals
from recsysml.losses.gbce import gbce
from recsysml.losses.sampled_softmax import draw, excluded, hardest, sampled_softmax
from recsysml.losses.softmax import linear_cross_entropy
from recsysml.models.encoder import EncoderRetriever
from recsysml.models.histories import Histories
from recsysml.models.trimming import by_length
from recsysml.retrieval import index
from recsysml.retrieval.feature_matrix import feature_matrix
from recsysml.retrieval.opening import build, metadata
from recsysml.retrieval.questions import questions, training
from recsysml.schemas.run import RunConfig
from recsysml.schemas.trainers import RetrievalTrainerConfig

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
    mask_seen = config.data.mask_seen
    asked = {split: questions(data, split, mask_seen=mask_seen) for split in ("val", "test")}
    events = training(data)
    seeds.seed_everything(config.seed)
    features = _features(data) if config.model.reads_features else {}
    model = build(config.model, len(data.item_ids), len(data.user_ids), **features).to(machine.device)
    folder = Path(world.share(str(run.path) if world.main else "")) / "checkpoints"
    resume = checkpoint.latest_good(folder)
    if world.rank:
        seeds.seed_everything(config.seed + world.rank)  # every process its own dropout and negatives

    parameters = sum(p.numel() for p in model.parameters())
    if world.main:
        run.drop_metrics_after(resume.step if resume else -1)
        if resume:
            logger.info("going on from %s", resume.path)
        run.set_data(data.name, data.fingerprint, data.sizes)
        run.set_model(config.model.name, config.model.kind, parameters, parameters)
        run.set_protocol(**evals.protocol(data, asked, mask_seen=mask_seen))
        run.set_environment(machine.describe())
        run.save()
        logger.info(
            "%s: %s parameters on %s, %s; %s events of %s to learn from",
            *(config.model.name, f"{parameters:,}", device.device_name(machine.device), machine.precision),
            *(f"{len(data.fitted):,}", data.name),
        )
        if data.fit_range == "train_val":
            logger.warning(
                "data.fit_range=train_val: val is learnt from, so it says nothing; the last weights are used"
            )

    batches = SequenceBatches(
        events.offsets,
        events.items,
        events.users,
        n_items=model.n_items,
        length=model.context_length,
        batch_size=settings.batch_size,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
    )
    counts = torch.from_numpy(events.matrix(model.n_items).sum(axis=0)).to(machine.device)  # (I,)
    row_loss = RowLoss(settings, counts, torch.from_numpy(events.lengths).to(machine.device))

    # one pass for all rows where passes are dear (accelerators), have a fixed shape (compiled) or must be as many in
    # every process
    trims = machine.device.type == "cpu" and not settings.compile and world.size == 1

    def loss(forward: nn.Module, inputs: Tensor, targets: Tensor, users: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        lengths = (targets != IGNORE).sum(dim=1).clamp(min=1)  # (B,)
        states = by_length(forward, inputs, users, lengths) if trims else forward(inputs, users)  # (B, T, C)
        value = row_loss(states, model.item_matrix(), targets, users)
        return value, {"train/loss": value}

    how: dict[str, Any] = {"mask_seen": mask_seen, "ks": config.eval.ks, "batch_size": config.eval.batch_size}
    best_by = f"val/ndcg@{config.eval.ks[0]}"

    def evaluate(step: int) -> dict[str, float]:
        return evals.judge(EncoderRetriever(model, machine.device), asked["val"], **how).values("val")

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
        metadata=metadata(config.model, config.model.name, data, {k: v.shape[1] for k, v in features.items()}),
        resume=resume,
        progress=config.progress,
    )
    if not world.main:
        return
    chosen = "last" if data.fit_range == "train_val" else "best"
    checkpoint.put_weights(model, checkpoint.load_weights(folder / chosen)[0], folder / chosen)
    retriever = EncoderRetriever(model.eval(), machine.device)
    simple = evals.baselines(config.eval.baselines, data, asked, **how)
    for split, part in asked.items():
        judged = evals.judge(retriever, part, **how, whole=True)
        evals.record(run, split, judged, simple[split], part, data)
        logger.info("%s", evals.sentence(split, judged, simple[split]))
    _index(run, retriever, asked["test"].histories, settings.index)
    _report(run, fitted, best_by, chosen)


def _features(data: Interactions) -> dict[str, Tensor]:
    """What the data knows of items and users, each as a matrix standardised on the events learnt from."""
    found = {
        "item_features": feature_matrix(data.item_features, data.fitted.items),
        "user_features": feature_matrix(data.user_features, data.fitted.users),
    }
    return {name: torch.from_numpy(matrix) for name, matrix in found.items() if matrix is not None}


def _index(run: Any, retriever: EncoderRetriever, histories: Histories, kind: str) -> None:
    """Write the item vectors' index, and what of the exact answers it finds for the test's users."""
    queries = retriever.user_vectors(histories.part(0, index.MEASURED_QUERIES))
    made = index.build(retriever.item_vectors(), queries, kind)
    made.save(run.path / "index")
    recall = made.description[f"recall@{index.RECALL_AT}"]
    run.metric(f"test/index_recall@{index.RECALL_AT}", recall, stderr=None, n=len(queries), better="higher")
    run.artifact("index", "index")
    logger.info(
        "%s index of %s items, recall@%s %.4f",
        made.description["kind"],
        len(retriever.item_vectors()),
        index.RECALL_AT,
        recall,
    )


def _report(run: Any, fitted: Fitted, best_by: str, chosen: str) -> None:
    throughput = dict(fitted.throughput)
    logger.info("best weights: step %s of %s by %s", fitted.best_step, fitted.steps, best_by)
    if throughput["value"] is not None:
        run.set_throughput(**throughput)
        memory = throughput["peak_memory_bytes"] / 2**30
        logger.info("%s events/s, %.2f GiB at most", f"{throughput['value']:,.0f}", memory)
    run.artifact("checkpoint", f"checkpoints/{chosen}")
    run.artifact("plots", str(plots.loss_plot(run.path).relative_to(run.path)))


class RowLoss:
    """The loss of a batch at its real targets, as the trainer's config asks for it."""

    def __init__(self, settings: RetrievalTrainerConfig, item_counts: Tensor, user_counts: Tensor) -> None:
        """item_counts (I,) and user_counts (U,): training events of each."""
        self.settings = settings
        self.probability = item_counts / item_counts.sum()  # of being a target: each event is one, once an epoch
        self.weight_of_item = item_counts.clamp(min=1).float().rsqrt()
        self.weight_of_user = user_counts.clamp(min=1).float().rsqrt()

    def __call__(self, states: Tensor, items: Tensor, targets: Tensor, users: Tensor) -> Tensor:
        """states (B, T, C), items (I, C), targets (B, T) with -100 where there is none, users (B,) -> a scalar."""
        settings = self.settings
        row, place = (targets != IGNORE).nonzero(as_tuple=True)  # (N,) each: padding costs nothing from here on
        wanted = targets[row, place]  # (N,)
        queries = states[row, place] / settings.temperature  # (N, C)
        weights = None
        if settings.row_weights == "user":
            weights = self.weight_of_user[users[row]]
        elif settings.row_weights == "item":
            weights = self.weight_of_item[wanted]
        if not len(wanted):
            return states.sum() * 0  # a micro-batch of padding alone
        if settings.loss == "full":
            return linear_cross_entropy(queries, items, wanted, weights)
        candidates = draw(
            len(items),
            uniform=settings.uniform_negatives,
            batch_items=wanted,
            in_batch=settings.in_batch_negatives,
            probability=self.probability,
            hard=hardest(queries, items, settings.hard_negatives) if settings.hard_negatives else None,
        )
        positive = (queries * items[wanted]).sum(dim=1)  # (N,)
        negative = queries @ items[candidates.ids].T  # (N, S)
        known, group = (targets, row) if settings.mask_known else (None, None)
        out = excluded(candidates.ids, wanted, known, group)
        if settings.loss == "gbce":
            return gbce(positive, negative, out, len(items), settings.calibration, weights=weights)
        log_expected, own = candidates.log_expected, None
        if not settings.logq:  # +inf stays: it takes a place out
            log_expected = log_expected.where(log_expected.isposinf(), 0.0)
        elif settings.logq_positive:
            drawn = min(settings.in_batch_negatives, len(wanted))
            own = (settings.uniform_negatives / len(items) + drawn * self.probability[wanted]).log()
        return sampled_softmax(positive, negative, log_expected, out, positive_log_expected=own, weights=weights)
