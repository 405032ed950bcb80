"""Next-token training of a language model: data, model and what a step's loss is, handed to the loop."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from recsysml import lazy, plots
from recsysml.data import KINDS as DATA
from recsysml.data.batches import TokenBatches
from recsysml.data.token_data import TokenData
from recsysml.data.tokenizers import tokenizer_from_json
from recsysml.engine import checkpoint, device, seeds, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted, Task, fit
from recsysml.evals import language as evals
from recsysml.models import KINDS as MODELS
from recsysml.models.generation import generate
from recsysml.models.init_from import load_initial_weights, stored_tokenizer
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Train, keep the best weights by validation loss, score val and test once with them, fill the record.

    `config` is resolved (no `auto`). A run directory with checkpoints is resumed from its newest whole one. Under
    torchrun every process calls this; `run` is None in all but the main one.
    """
    with start.training(config) as (machine, world):
        _train(config, run, machine, world)


def _train(config: RunConfig, run: Any, machine: Machine, world: World) -> None:
    settings = config.trainer
    with world.main_first():  # it prepares the data, the others find it prepared
        data: TokenData = lazy.resolve(f"{DATA[config.data.kind]}:load")(config.data)
    seeds.seed_everything(config.seed)
    model = lazy.resolve(MODELS[config.model.kind])(config.model, data.tokenizer.vocab_size)
    folder = Path(world.share(str(run.path) if world.main else "")) / "checkpoints"
    resume = checkpoint.latest_good(folder)
    if resume is None and config.model.init_from:
        report = load_initial_weights(model, config.model.init_from)
        if world.main:
            logger.info("%s", report)
            _warn_of_other_tokens(config.model.init_from, data)
    model.to(machine.device)
    model.gradient_checkpointing = settings.gradient_checkpointing
    if world.rank:
        seeds.seed_everything(config.seed + world.rank)  # every process its own dropout

    counts = model.counted_parameters()
    if world.main:
        run.drop_metrics_after(resume.step if resume else -1)
        if resume:
            logger.info("going on from %s", resume.path)
        trainable = counts["total"] if all(p.requires_grad for p in model.parameters()) else _trainable(model)
        run.set_data(data.name, data.fingerprint, data.sizes, tokenizer=data.tokenizer.fingerprint)
        run.set_model(model_name(config.model), config.model.kind, counts["total"], trainable)
        run.set_protocol(**evals.protocol(model.context_length))
        run.set_environment(machine.describe())
        run.save()
        logger.info(
            "%s: %s parameters (%s without embeddings) on %s, %s; %s tokens of %s to learn from",
            *(model_name(config.model), f"{counts['total']:,}", f"{counts['non_embedding']:,}"),
            *(device.device_name(machine.device), machine.precision, f"{data.sizes['train']:,}", data.name),
        )

    batches = TokenBatches(
        data.splits["train"].tokens,
        model.context_length,
        settings.batch_size,
        config.seed,
        rank=world.rank,
        world_size=world.size,
    )

    ask = _tasks(config, model, data, machine) if settings.eval_tasks and world.main else None

    def loss(forward: nn.Module, tokens: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output = forward(tokens, targets, loss_chunk=settings.loss_chunk)
        values = {"train/loss": output.cross_entropy}
        if output.loss is not output.cross_entropy:  # a mixture of experts adds terms of its own
            values["train/objective"] = output.loss
        return output.loss, values

    def evaluate(step: int) -> dict[str, float]:
        score = _score(model, data, "val", config, machine, world)
        if world.main and settings.sample_tokens > 0:
            run.sample(step, sample(model, data, settings.sample_prompt, settings.sample_tokens, config.seed))
        asked = {metric.name: metric.value for metric in ask()[0].metrics} if ask is not None else {}
        return score.values("val") | asked

    fitted = fit(
        model,
        batches,
        Task(
            loss=loss,
            weight=lambda batch: batch[1].numel(),  # training windows are full: every target counts
            evaluate=evaluate,
            describe=lambda i: f"batch {i}, windows at tokens {batches.window_ids(i).tolist()}",
            flops_per_target=model.flops_per_token(),
        ),
        settings,
        run,
        machine=machine,
        world=world,
        metadata={
            "model": {
                "name": model_name(config.model),
                "kind": config.model.kind,
                "config": asdict(config.model),
                "vocab_size": data.tokenizer.vocab_size,
            },
            "tokenizer": data.tokenizer.to_json(),
            "data": {"name": data.name, "fingerprint": data.fingerprint},
        },
        resume=resume,
        progress=config.progress,
    )
    best = folder / "best"
    checkpoint.put_weights(model, checkpoint.load_weights(best)[0], best)
    model.eval()
    scored: list[str] = [name for name in ("val", "test") if name in data.splits]
    if world.main:
        logger.info("judging %s whole with the best weights", " and ".join(scored))
    scores = {name: _score(model, data, name, config, machine, world) for name in scored}
    if world.main:
        _report(run, scores, data, fitted)
        if ask is not None:
            from recsysml.evals import lm_harness

            judged, tasks = ask()
            lm_harness.record(run, judged)
            run.record["data"]["tasks"] = lm_harness.describe(judged, tasks)


def _warn_of_other_tokens(path: str, data: TokenData) -> None:
    """A vocabulary may be as large as the weights' own and yet hold other words, which no shape tells."""
    stored = stored_tokenizer(path)
    if stored is not None and tokenizer_from_json(stored).fingerprint != data.tokenizer.fingerprint:
        logger.warning(
            "model.init_from=%s: it was trained with another tokenizer than that of %s, so that its words are not"
            " these; data.tokenizer=bytes or gpt2 is the same for all text",
            *(path, data.name),
        )


def _tasks(config: RunConfig, model: Any, data: TokenData, machine: Machine) -> Any:
    """What asks the tasks of `trainer.eval_tasks`; lm_eval is imported only for them."""
    from recsysml.evals import lm_harness

    return lm_harness.during_training(config, model, data, machine)


def _score(model: Any, data: TokenData, split: str, config: RunConfig, machine: Machine, world: World) -> evals.Score:
    return evals.evaluate(
        model.token_losses,
        data.splits[split],
        context_length=model.context_length,
        batch_size=config.eval.batch_size,
        machine=machine,
        world=world,
    )


def _report(run: Any, scores: dict[str, evals.Score], data: TokenData, fitted: Fitted) -> None:
    for name, score in scores.items():
        evals.record(run, name, score, data)
        values = score.values(name)
        logger.info(
            "%s loss %.4f nats/token, %.4f bits/byte (best weights, step %s)", name, *values.values(), fitted.best_step
        )
    throughput = dict(fitted.throughput)
    if throughput["value"] is not None:
        run.set_throughput(**throughput)
        share = f", {throughput['mfu']:.0%} of the peak" if throughput["mfu"] else ""
        memory = throughput["peak_memory_bytes"] / 2**30
        logger.info("%s tokens/s%s, %.2f GiB at most", f"{throughput['value']:,.0f}", share, memory)
    run.artifact("checkpoint", "checkpoints/best")
    run.artifact("plots", str(plots.loss_plot(run.path).relative_to(run.path)))


def sample(model: Any, data: TokenData, prompt: str, length: int, seed: int) -> dict[str, Any]:
    """A text the model goes on with after `prompt`. Drawn from a generator of its own: training is not touched."""
    tokenizer = data.tokenizer
    ids = [tokenizer.eot, *tokenizer.encode(prompt)]
    drawn = generate(model, ids, length, seed=seed)
    return {"prompt": prompt, "text": tokenizer.decode([i for i in drawn if i != tokenizer.eot])}


def model_name(config: Any) -> str:
    """The name of the model in the record: its YAML's, else its kind."""
    return str(getattr(config, "name", config.kind))


def _trainable(model: nn.Module) -> int:
    return int(np.sum([p.numel() for p in model.parameters() if p.requires_grad]))
