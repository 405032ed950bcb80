"""The training loop, whole: schedule, batch, forward, backward, clip, step, log, evaluate, save.

It knows nothing of language or recommendations. A trainer hands it a `Task`, which says what the loss of a batch is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsysml.engine import checkpoint, optim, seeds
from recsysml.engine.checkpoint import Checkpoint
from recsysml.engine.compiling import compile_loss
from recsysml.engine.device import Machine, bf16_is_fast
from recsysml.engine.distributed import World
from recsysml.engine.ema import WeightAverage
from recsysml.engine.garbage import settled
from recsysml.engine.loader import Batch, Batches, iterate
from recsysml.engine.progress import Progress
from recsysml.engine.schedule import learning_rate
from recsysml.engine.signals import StopRequest
from recsysml.engine.throughput import Meter, peak_flops
from recsysml.errors import Interrupted, JobError

logger = logging.getLogger("recsysml")


@dataclass(frozen=True)
class Task:
    """One kind of training, as far as the loop must know it."""

    # loss(forward, *batch) -> (what is minimised, the values to log by name); both means over the batch's targets.
    # `forward` stands for the model: it may be wrapped for several processes
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    # weight(batch) -> how many targets the means are over
    weight: Callable[[Batch], int]
    # evaluate(step) -> values by name; called in every process, with the average's weights where one is kept
    evaluate: Callable[[int], dict[str, float]]
    # the value of `evaluate` that says which checkpoint is best: the lowest, unless higher is better
    best_by: str = "val/loss"
    higher_is_better: bool = False
    # describe(i) -> where batch i came from, for error messages
    describe: Callable[[int], str] = "batch {}".format
    unit: str = "tokens/s"
    # floating-point operations of one target forward and backward, for the share of the hardware's peak
    flops_per_target: float | None = None


@dataclass(frozen=True)
class Fitted:
    steps: int
    best_value: float | None
    best_step: int | None
    compiled: bool
    throughput: dict[str, Any]  # unit, value, steps, peak_memory_bytes, mfu, peak_flops


def fit(
    model: nn.Module,
    batches: Batches,
    task: Task,
    config: Any,
    run: Any,
    *,
    machine: Machine,
    world: World,
    metadata: dict[str, Any],
    resume: Checkpoint | None = None,
    progress: str = "auto",
) -> Fitted:
    """Train `model` in place for `config.max_steps` optimiser steps on batch 0, 1, 2, ... and leave checkpoints.

    With `config.patience` it ends before, once so many validations in a row have brought no better one.

    `batches[i]` is one process's share of the i-th step's rows, cut into `config.grad_accum` micro-batches along the
    first dimension. Whatever the cut and the number of processes, the gradient is that of the mean over all targets of
    the step. `config` has the fields of LanguageTrainerConfig that are not about language. `run` is used in the main
    process only. Same seed, same config, same hardware: the same numbers, also when a run is stopped and resumed.
    Raises Interrupted after SIGINT or SIGTERM (a checkpoint is saved) and JobError when the loss is not a number.
    """
    optimizers = optim.build(model, config, bf16=bf16_is_fast(str(machine.device)))
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.precision == "fp16")
    average = WeightAverage(model, config.ema_decay) if config.ema_decay > 0 else None
    done, best_step = 0, None
    best_value = -math.inf if task.higher_is_better else math.inf
    root = run.path / "checkpoints" if world.main else None

    if resume is not None:
        checkpoint.check_same_data(resume, metadata)
        saved = resume.state
        done, best_value, best_step = saved["step"], saved["best_value"], saved["best_step"]
        kept = checkpoint.find_best(resume.path.parent, best_step)
        if kept is None:  # damaged or gone: any later validation beats it, and until then these weights stand in
            kept, best_step = resume.path, done
            best_value = -math.inf if task.higher_is_better else math.inf
        if world.main:  # a crash may have come between a checkpoint and its link
            checkpoint.mark_best(kept)
        checkpoint.put_weights(model, saved.get("weights", resume.tensors), resume.path)
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            try:
                optimizer.load_state_dict(state)
            except ValueError as error:  # a version may group parameters in another way
                raise JobError(f"{resume.path} was written by another version: {error}; train anew") from error
        scaler.load_state_dict(saved["scaler"])
        if average is not None:
            average.restore(saved["average"])
        if len(saved["random"]) != world.size:
            logger.warning(
                "processes: %s now, %s before; the run's numbers will not be those of an uninterrupted one",
                *(world.size, len(saved["random"])),
            )
        seeds.restore(saved["random"][world.rank % len(saved["random"])])

    forward = world.wrap(model, machine.device)

    def step_loss(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return task.loss(forward, *batch)

    compute, first = step_loss, done
    if config.compile and done < config.max_steps:
        example = tuple(tensor.to(machine.device) for tensor in _cut(batches[done], config.grad_accum)[0])
        compute = compile_loss(step_loss, forward, example, machine, world)
    compiled = compute is not step_loss

    def rate_at(step: int) -> float:
        return learning_rate(
            step,
            schedule=config.schedule,
            lr=config.lr,
            max_steps=config.max_steps,
            warmup_steps=config.warmup_steps,
            min_lr_ratio=config.min_lr_ratio,
            decay_fraction=config.decay_fraction,
        )

    if world.main and config.warmup_steps > config.max_steps:
        logger.warning(
            "trainer.warmup_steps=%s: trainer.max_steps=%s ends within it, so that trainer.lr is never reached",
            *(config.warmup_steps, config.max_steps),
        )

    def evaluate(step: int) -> bool:
        """Log the validation after `step` steps; whether it is the best so far."""
        nonlocal best_value, best_step
        with average.applied() if average is not None else nullcontext():
            model.eval()
            values = task.evaluate(step)
            model.train()
        if world.main:
            run.log(step, values)
        value = values[task.best_by]
        better = value > best_value if task.higher_is_better else value < best_value
        if better:
            best_value, best_step = value, step
        return better

    def save(step: int, is_best: bool) -> None:
        random = world.gather(seeds.state())
        if root is not None:
            write(root, step, is_best, random)
        world.share(step)  # no process reads a checkpoint that the main one is still writing

    def write(root: Path, step: int, is_best: bool, random: list[Any]) -> None:
        state = {
            "step": step,  # also the position in the data: batch i is a function of i alone
            "best_value": best_value,
            "best_step": best_step,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "scaler": scaler.state_dict(),
            "random": random,
        }
        own = checkpoint.weights(model)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in own.values()):
            raise _diverged(step, "a weight", "not finite", rate_at(step - 1), task.describe(step - 1), root)
        if average is None:
            checkpoint.save(root, step, own, state, metadata, keep=config.keep_checkpoints, is_best=is_best)
            return
        state |= {"average": average.state(), "weights": {name: tensor.clone() for name, tensor in own.items()}}
        with average.applied():
            tensors = checkpoint.weights(model)
            checkpoint.save(root, step, tensors, state, metadata, keep=config.keep_checkpoints, is_best=is_best)

    parameters = list(model.parameters())
    meter, speed_name = Meter(machine), task.unit.replace("/s", "_per_second")
    rate: float | None = None
    waiting: list[Tensor] = []  # objective and gradient norm of the steps not looked at yet
    stop_at = done if over(config, done, best_step) else config.max_steps
    ahead = iterate(batches, done, stop_at, machine.device, config.loader_workers)
    bar = Progress(config.max_steps, done, unit=task.unit, mode=_mode(progress, world))
    with StopRequest() as stop, bar as shown, closing(ahead), settled():
        model.train()
        if resume is None:
            save(0, evaluate(0))
        if world.any(stop.requested):
            raise Interrupted(f"stopped before step {done + 1} of {config.max_steps}; the checkpoint is saved")

        meter.start()
        for batch in ahead:
            lr = rate_at(done)
            optim.set_learning_rate(optimizers, lr)

            # forward and backward, one micro-batch after the other; only the last one averages over the processes
            parts = _cut(batch, config.grad_accum)
            weights = [task.weight(part) for part in parts]
            total = world.total(sum(weights))
            objective: Tensor | float = 0.0
            values: dict[str, Tensor] = {}
            for part, weight in zip(parts, weights, strict=True):
                with world.no_sync(forward) if part is not parts[-1] else nullcontext():
                    with machine.autocast():
                        loss, named = compute(*part)
                    # a process's gradients are averaged (divided by their number): size / total makes a sum of shares
                    scaler.scale(loss * (weight * world.size / total)).backward()
                objective = objective + loss.detach() * (weight / total)
                for name, value in named.items():
                    values[name] = values.get(name, 0.0) + value.detach() * (weight / total)

            # clip, step
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            norm = optim.clip(parameters, config.grad_clip)
            # one scale for all of them: where the gradients of one optimiser overflowed, no other may step on what
            # clipping by an infinite norm left of its own
            overflow = scaler.is_enabled() and not math.isfinite(norm.item())
            for optimizer in optimizers:
                if not overflow:
                    scaler.step(optimizer)
            for parameter in parameters:
                parameter.grad = None
            scaler.update()
            if average is not None:
                average.update()
            done += 1
            meter.step(total)

            # look at the numbers
            last = done == config.max_steps
            log_now = last or done % config.log_every == 0
            eval_now = last or _due(done, config.eval_every)
            save_now = last or _due(done, config.checkpoint_every)
            stop_now = world.any(stop.requested)
            # fp16 gradients overflow now and then: the scaler skips that step and goes on with a smaller scale
            finite_norm = norm if not scaler.is_enabled() else torch.zeros_like(norm)
            waiting.append(torch.stack([world.sum(torch.as_tensor(objective)), finite_norm]))
            if log_now or eval_now or save_now or stop_now:
                _check(torch.stack(waiting).tolist(), done, rate_at, task.describe, root)
                waiting.clear()
            if log_now:
                rate = meter.rate() or rate
                row = {name: world.sum(value).item() for name, value in values.items()}
                row |= {"lr": lr, "grad_norm": norm.item()}
                if world.main:
                    run.log(done, row | ({speed_name: rate} if rate else {}))
                    shown.update(done, row.get("train/loss", float(objective)), rate)
            if eval_now or save_now or stop_now:
                with meter.paused():
                    best = evaluate(done) if eval_now else False
                    ended = over(config, done, best_step)
                    if best or save_now or stop_now or ended:
                        save(done, best)
                if ended and not last:
                    logger.info("%s validations without a better one: ended after step %s", config.patience, done)
                    break
            if stop_now and not last:
                raise Interrupted(f"stopped after step {done} of {config.max_steps}; the checkpoint is saved")

    speed = meter.total_rate()
    peak = peak_flops(machine) if task.flops_per_target and speed else None
    mfu = speed * task.flops_per_target / (peak * world.size) if speed and peak and task.flops_per_target else None
    throughput = {
        "unit": task.unit,
        "value": speed,
        "steps": meter.steps,
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "mfu": mfu,
        "peak_flops": peak,
        "processes": world.size,
        "resumed_at": first or None,
    }
    return Fitted(done, None if math.isinf(best_value) else best_value, best_step, compiled, throughput)


def over(config: Any, step: int, best_step: int | None) -> bool:
    """Whether a training ends after `step` steps, all of them or by its patience; the same in a run that goes on there.

    best_step: that of the best validation so far.
    """
    since = step - (best_step or 0)
    impatient = config.patience > 0 and _due(step, config.eval_every) and since >= config.patience * config.eval_every
    return bool(step >= config.max_steps or impatient)


def _cut(batch: Batch, parts: int) -> list[Batch]:
    """A batch as micro-batches, cut along the rows; fewer where there are fewer rows than parts."""
    if parts == 1:
        return [batch]
    return list(zip(*(tensor.chunk(parts) for tensor in batch), strict=True))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _mode(progress: str, world: World) -> str:
    return progress if world.main else "never"


def _check(
    numbers: list[list[float]], done: int, rate_at: Callable[[int], float], describe: Callable[[int], str], root: Any
) -> None:
    """Raise for the first of the newest `len(numbers)` steps whose loss or gradient norm is not a number."""
    for step, pair in enumerate(numbers, start=done - len(numbers) + 1):
        for name, number in zip(("the loss", "the gradient norm"), pair, strict=True):
            if not math.isfinite(number):
                raise _diverged(step, name, str(number), rate_at(step - 1), describe(step - 1), root)


def _diverged(step: int, name: str, what: str, lr: float, batch: str, root: Any) -> JobError:
    good = checkpoint.steps(root)[-1:] if root is not None else []
    where = f"last good checkpoint: {good[0]}" if good else "no checkpoint was saved before"
    return JobError(
        f"{name} is {what} at step {step} (learning rate {lr:g}, {batch}); {where}; "
        "try a lower trainer.lr, more trainer.warmup_steps or a smaller trainer.grad_clip"
    )
