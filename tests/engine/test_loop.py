import json
import math
import os
import shutil
import signal
import threading

import pytest
import torch
import torch._inductor.config
from torch.nn import functional

from recsysml.engine import checkpoint
from recsysml.engine.loop import Task
from recsysml.engine.schedule import learning_rate
from recsysml.errors import Interrupted, JobError


def timeless(rows):
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]


def reference_losses(model, batches, config):
    """A training loop written out with nothing of ours but the schedule: full batch, torch's AdamW, torch's clip."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), foreach=False, fused=False)
    losses = []
    for step in range(config.max_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step, schedule="cosine", lr=config.lr, max_steps=config.max_steps, warmup_steps=2, min_lr_ratio=0.1
            )
        tokens, targets = batches[step]
        loss = model(tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("grad_accum", [1, 2, 4])
def test_the_loop_equals_a_loop_written_by_hand_whatever_the_accumulation(tiny, grad_accum):
    config = tiny.config(grad_accum=grad_accum, grad_clip=0.5, max_steps=8)
    torch.manual_seed(5)
    model, twin = tiny.Model(), tiny.Model()
    twin.load_state_dict(model.state_dict())
    expected = reference_losses(twin, tiny.Batches(), config)
    model, run, _ = tiny.train(config, model=model)
    got = [loss for _, loss in sorted(run.column("train/loss").items())]
    # micro-batches hold different numbers of targets: averaging their means would not pass
    assert got == pytest.approx(expected, abs=2e-6)
    for name, tensor in twin.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-5), name


@pytest.mark.parametrize(("warmup_steps", "said"), [(4, False), (5, True)])
def test_a_run_that_ends_within_its_warm_up_says_so(tiny, caplog, warmup_steps, said):
    config = tiny.config(max_steps=4, warmup_steps=warmup_steps, log_every=1)
    rates = tiny.train(config)[1].column("lr")
    assert (max(rates.values()) < config.lr) == said == ("never reached" in caplog.text)


def test_rows_are_logged_when_they_are_due(tiny):
    _, run, fitted = tiny.train(tiny.config(max_steps=7, log_every=3, eval_every=2, checkpoint_every=0))
    assert list(run.column("train/loss")) == [3, 6, 7]
    assert list(run.column("val/loss")) == [0, 2, 4, 6, 7]
    assert fitted.steps == 7
    losses = run.column("val/loss")
    assert fitted.best_value == min(losses.values())
    assert losses[fitted.best_step] == fitted.best_value
    assert set(next(row for row in run.rows if row["step"] == 3)) >= {"step", "train/loss", "lr", "grad_norm"}


def test_eval_only_at_the_end(tiny):
    _, run, _ = tiny.train(tiny.config(eval_every=0, checkpoint_every=0))
    assert list(run.column("val/loss")) == [0, 6]


@pytest.mark.parametrize("seen", [None, 6, 8])
def test_patience_ends_after_so_many_validations_without_a_better_one(tiny, tmp_path, seen):
    """Values are given by hand: best at step 4, and the end two validations later, also for a run that goes on."""
    values = {0: 5.0, 2: 3.0, 4: 2.0, 6: 2.0, 8: 2.5, 10: 1.0}
    told = {"evaluate": lambda step: {"val/loss": values[step]}}
    settings = tiny.config(max_steps=12, eval_every=2, checkpoint_every=2, patience=2, keep_checkpoints=9)
    _, run, fitted = tiny.train(settings, tiny.Run(tmp_path / "whole"), **told)
    assert (fitted.steps, fitted.best_step, fitted.best_value) == (8, 4, 2.0)
    assert list(run.column("val/loss")) == [0, 2, 4, 6, 8]
    saved = {folder.name[-2:]: folder for folder in checkpoint.steps(tmp_path / "whole" / "checkpoints")}
    assert "08" in saved
    if seen is not None:
        loaded = checkpoint.load(saved[f"{seen:02d}"])
        _, again, fitted = tiny.train(settings, tiny.Run(tmp_path / "again"), resume=loaded, **told)
        assert fitted.steps == 8
        assert [row["step"] for row in again.rows if "train/loss" in row] == list(range(seen + 1, 9))


def test_throughput_counts_targets_over_training_time_only(tiny):
    _, _, fitted = tiny.train(tiny.config(max_steps=20, eval_every=0))
    speed = fitted.throughput
    assert speed["steps"] == 19  # the first pays for warming up
    assert speed["value"] > 0
    assert speed["unit"] == "tokens/s"
    assert speed["peak_memory_bytes"] > 10e6
    assert speed["mfu"] == pytest.approx(speed["value"] * 6000 / speed["peak_flops"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "muon"},
        {"ema_decay": 0.9},
        {"precision": "fp16"},
        {"precision": "bf16"},
        {"loader_workers": 2},
    ],
)
def test_a_run_killed_at_any_step_and_resumed_repeats_the_uninterrupted_one(tiny, tmp_path, changes):
    settings = tiny.config(max_steps=9, eval_every=3, checkpoint_every=2, keep_checkpoints=9, **changes)
    whole_model, whole, _ = tiny.train(settings, tiny.Run(tmp_path / "whole"))
    folders = checkpoint.steps(tmp_path / "whole" / "checkpoints")
    assert folders[0].name == "step-00000000"
    for folder in folders[:-1]:
        loaded = checkpoint.load(folder)
        torch.manual_seed(12345)  # a new process draws other numbers before it restores its own
        model, run, _ = tiny.train(settings, tiny.Run(tmp_path / folder.name), resume=loaded, seed=77)
        expected = [r for r in whole.rows if r["step"] > loaded.step]
        assert json.dumps(timeless(run.rows)) == json.dumps(timeless(expected)), folder.name
        for name, tensor in whole_model.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)


def test_a_loss_that_is_not_a_number_stops_with_what_led_there_and_saves_nothing_bad(tiny, tmp_path):
    def loss(forward, tokens, targets):
        value = forward(tokens, targets)
        calls.append(1)
        value = value * float("nan") if len(calls) == 5 else value
        return value, {"train/loss": value}

    for log_every in (1, 100):  # looked at each step, or only when something is due
        calls = []
        run = tiny.Run(tmp_path / f"nan-{log_every}")
        describe = lambda i: f"batch {i}, windows [{i}]"  # noqa: E731
        settings = tiny.config(max_steps=20, log_every=log_every, eval_every=0, checkpoint_every=3, keep_checkpoints=9)
        with pytest.raises(JobError) as caught:
            tiny.train(settings, run, loss=loss, describe=describe)
        text = str(caught.value)
        rate = learning_rate(4, schedule="cosine", lr=0.02, max_steps=20, warmup_steps=2, min_lr_ratio=0.1)
        assert "the loss is nan at step 5" in text
        assert f"learning rate {rate:g}" in text
        assert "batch 4, windows [4]" in text
        assert str(run.path / "checkpoints" / "step-00000003") in text
        assert [path.name for path in checkpoint.steps(run.path / "checkpoints")][-1] == "step-00000003"
        good = checkpoint.latest_good(run.path / "checkpoints")
        assert all(torch.isfinite(tensor).all() for tensor in good.tensors.values())


def test_a_gradient_that_is_not_a_number_stops_too(tiny, tmp_path):
    def loss(forward, tokens, targets):
        value = forward(tokens, targets)
        return value + (value - value.detach()).abs().sqrt(), {"train/loss": value}  # finite, its slope is not

    with pytest.raises(JobError, match=r"the gradient norm is nan at step 1 .* last good checkpoint: .*step-00000000"):
        tiny.train(tiny.config(), loss=loss)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_can_be_resumed(tiny, tmp_path, number):
    settings = tiny.config(max_steps=9, eval_every=2, checkpoint_every=0)
    _, whole, _ = tiny.train(settings, tiny.Run(tmp_path / "whole"))

    def loss(forward, tokens, targets):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), number)
        return tiny.loss(forward, tokens, targets)

    calls = []
    before = signal.getsignal(number)
    run = tiny.Run(tmp_path / "stopped")
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        tiny.train(settings, run, loss=loss)
    assert signal.getsignal(number) is before
    assert list(run.column("val/loss"))[-1] == 4  # due at the step it stopped after
    resume = checkpoint.latest_good(run.path / "checkpoints")
    assert resume.step == 4
    tiny.train(settings, run, resume=resume)
    for name in ("train/loss", "val/loss", "lr", "grad_norm"):
        assert run.column(name) == whole.column(name)


def test_a_second_interrupt_stops_at_once(tiny, tmp_path):
    def loss(forward, tokens, targets):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still here")

    run = tiny.Run(tmp_path / "twice")
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tiny.config(), run, loss=loss)
    assert checkpoint.latest_good(run.path / "checkpoints").step == 0


def test_training_works_outside_the_main_thread(tiny):
    failures = []

    def work():
        try:
            tiny.train(tiny.config(max_steps=2))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_best_and_newest_checkpoints_are_kept(tiny, tmp_path):
    values = iter([5.0, 4.0, 1.0, 2.0, 3.0, 3.0, 3.0])
    run = tiny.Run(tmp_path / "run")
    settings = tiny.config(max_steps=6, eval_every=1, checkpoint_every=1, keep_checkpoints=2)
    tiny.train(settings, run, evaluate=lambda step: {"val/loss": next(values)})
    root = run.path / "checkpoints"
    assert [path.name for path in checkpoint.steps(root)] == ["step-00000002", "step-00000005", "step-00000006"]
    assert os.readlink(root / "best") == "step-00000002"
    assert os.readlink(root / "last") == "step-00000006"


@pytest.mark.parametrize(
    ("spoil", "stand_in"),
    [
        (lambda root: (root / "best").unlink(), None),  # killed between the checkpoint and its link
        (lambda root: (root / "step-00000002" / "model.safetensors").write_bytes(b"x"), "step-00000004"),
        (lambda root: shutil.rmtree(root / "step-00000002"), "step-00000004"),
    ],
    ids=["no link", "damaged", "gone"],
)
@pytest.mark.parametrize(("late", "better"), [(0.5, True), (9.0, False)])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["lower is better", "higher is better"])
def test_a_best_checkpoint_that_is_lost_is_chosen_anew(tiny, tmp_path, caplog, spoil, stand_in, late, better, sign):
    run = tiny.Run(tmp_path / "run")
    root = run.path / "checkpoints"
    values = {step: sign * value for step, value in {0: 5.0, 2: 1.0, 4: 2.0, 6: late}.items()}
    asked = {"evaluate": lambda step: {"val/loss": values[step]}, "higher_is_better": sign < 0}
    settings = tiny.config(max_steps=6, eval_every=2, checkpoint_every=2, keep_checkpoints=9)
    tiny.train(settings, run, **asked)
    shutil.rmtree(root / "step-00000006")
    checkpoint.mark_best(root / "step-00000002")
    spoil(root)
    resume = checkpoint.load(root / "step-00000004")
    _, _, fitted = tiny.train(settings, run, resume=resume, **asked)
    lost = stand_in is not None
    assert os.readlink(root / "best") == ("step-00000006" if better or lost else "step-00000002")
    assert fitted.best_value == sign * (late if better or lost else 1.0)
    assert ("step-00000002" in caplog.text) == lost
    # stopped right after: the weights it goes on from stand in
    settings = tiny.config(max_steps=4, eval_every=2, checkpoint_every=2, keep_checkpoints=9)
    tiny.train(settings, run, resume=resume, **asked)
    assert os.readlink(root / "best") == (stand_in or "step-00000002")


def test_a_loop_that_fails_leaves_no_reading_thread(tiny):
    def loss(forward, tokens, targets):
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today") as caught:  # its traceback holds the loop's frame
        tiny.train(tiny.config(loader_workers=2), loss=loss)
    assert caught.value.__traceback__ is not None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_another_number_of_processes_is_said(tiny, tmp_path, caplog):
    settings = tiny.config(max_steps=4, checkpoint_every=2, keep_checkpoints=9)
    _, run, _ = tiny.train(settings)
    folder = checkpoint.steps(run.path / "checkpoints")[1]
    saved = checkpoint.load(folder)
    saved.state["random"].append(saved.state["random"][0])  # as two processes leave it
    tiny.train(settings, tiny.Run(tmp_path / "other"), resume=saved)
    assert "processes: 1 now, 2 before" in caplog.text


def test_a_state_of_other_groups_of_parameters_is_refused_in_one_line(tiny, tmp_path):
    settings = tiny.config(max_steps=4, checkpoint_every=2, keep_checkpoints=9)
    _, run, _ = tiny.train(settings)
    saved = checkpoint.load(checkpoint.steps(run.path / "checkpoints")[1])
    groups = saved.state["optimizers"][0]["param_groups"]
    groups.append(groups[0] | {"params": []})  # as a version that divides them otherwise leaves it
    with pytest.raises(JobError, match=r"step-00000002 was written by another version: .*; train anew"):
        tiny.train(settings, tiny.Run(tmp_path / "other"), resume=saved)


def test_the_average_is_what_is_validated_and_kept(tiny, tmp_path):
    seen = []
    run = tiny.Run(tmp_path / "run")

    def evaluate(step):
        seen.append((step, model.hidden.weight.detach().clone()))
        return {"val/loss": -float(step)}

    torch.manual_seed(0)
    model = tiny.Model()
    start = model.hidden.weight.detach().clone()
    trace = []

    def loss(forward, tokens, targets):
        trace.append(model.hidden.weight.detach().clone())
        return tiny.loss(forward, tokens, targets)

    settings = tiny.config(max_steps=4, ema_decay=0.5, eval_every=0, checkpoint_every=0)
    tiny.train(settings, run, model=model, loss=loss, evaluate=evaluate)
    weights = [*trace[1:], model.hidden.weight.detach()]  # after each update
    average = start
    for t, weight in enumerate(weights):
        decay = min(0.5, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weight
    assert torch.allclose(seen[-1][1], average, atol=1e-6)
    best = checkpoint.load(run.path / "checkpoints" / "best")
    assert torch.allclose(best.tensors["hidden.weight"], average, atol=1e-6)
    assert torch.equal(best.state["weights"]["hidden.weight"], model.hidden.weight.detach())


def test_fp16_survives_an_overflow(tiny):
    def loss(forward, tokens, targets):
        value = forward(tokens, targets)
        return value * (1e30 if not calls else 1.0), {"train/loss": value}

    def counted(forward, tokens, targets):
        result = loss(forward, tokens, targets)
        calls.append(1)
        return result

    calls = []
    model, run, _ = tiny.train(tiny.config(precision="fp16", max_steps=4), loss=counted)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert len(run.column("train/loss")) == 4


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_fp16_overflow_in_one_optimisers_gradients_skips_the_step_of_all(tiny, grad_clip):
    def loss(forward, tokens, targets):
        value = forward(tokens, targets)
        slope = model.embedding.weight.sum() * 1e35  # times the scale of 65,536 it is beyond float32, for AdamW alone
        return 0.01 * value + (slope - slope.detach()), {"train/loss": value}

    torch.manual_seed(0)
    model = tiny.Model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = tiny.config(precision="fp16", optimizer="muon", max_steps=1, warmup_steps=0, grad_clip=grad_clip)
    tiny.train(settings, model=model, loss=loss)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_compile_that_fails_says_why_and_goes_on(tiny, monkeypatch, caplog):
    def broken(function, **settings):
        def call(*batch):
            raise RuntimeError("no C++ compiler was found\nmore lines")

        return call

    plain = tiny.train(tiny.config())[1]
    monkeypatch.setattr(torch, "compile", broken)
    _, run, fitted = tiny.train(tiny.config(compile=True))
    assert not fitted.compiled
    warnings = [record.getMessage() for record in caplog.records if "torch.compile" in record.getMessage()]
    assert warnings == ["torch.compile does not work here, going on without: RuntimeError: no C++ compiler was found"]
    assert run.column("train/loss") == plain.column("train/loss")  # the attempt left no trace


@pytest.mark.parametrize("deterministic", ["default", "error"])
def test_compile_is_tried_without_touching_gradients_or_random_states(tiny, monkeypatch, caplog, deterministic):
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(deterministic)
    torch._inductor.config.deterministic = deterministic == "default"  # the other way round, so that it must be told
    try:
        _compile_is_tried(tiny, monkeypatch, caplog)
    finally:
        torch.use_deterministic_algorithms(before == 2)


def _compile_is_tried(tiny, monkeypatch, caplog):
    caplog.set_level("INFO", "recsysml")
    asked = {}

    def transparent(function, **settings):
        asked.update(settings, deterministic=torch._inductor.config.deterministic)

        def call(*batch):
            assert "compiling the step" in caplog.text  # minutes of silence look like a hang
            return function(*batch)

        return call

    plain = tiny.train(tiny.config())[1]
    monkeypatch.setattr(torch, "compile", transparent)
    monkeypatch.setattr(torch.compiler, "reset", lambda: asked.update(fresh=True))
    _, run, fitted = tiny.train(tiny.config(compile=True))
    assert fitted.compiled
    assert asked == {"dynamic": False, "fresh": True, "deterministic": torch.are_deterministic_algorithms_enabled()}
    for name in ("train/loss", "val/loss", "grad_norm"):
        assert run.column(name) == plain.column(name)


def test_a_task_is_independent_of_language(tiny, tmp_path):
    """The loop minimises whatever it is given: here a least-squares line, against its closed form."""
    x = torch.linspace(-1, 1, 32)
    y = 3 * x - 1 + 0.1 * torch.sin(20 * x)

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(1, 1))
            self.offset = torch.nn.Parameter(torch.zeros(1))

        def forward(self, inputs, goals):
            return functional.mse_loss(inputs * self.slope[0] + self.offset, goals)

    class Whole:
        def __getitem__(self, i):
            return x, y

    model = Line()
    task = Task(
        loss=tiny.loss,
        weight=lambda batch: len(batch[0]),
        evaluate=lambda step: {"test/mse": model(x, y).item()},
        best_by="test/mse",
        unit="rows/s",
    )
    settings = tiny.config(max_steps=400, lr=0.1, weight_decay=0.0, eval_every=0, checkpoint_every=0, log_every=200)
    _, run, fitted = tiny.train(settings, model=model, batches=Whole(), task=task)
    matrix = torch.stack([x, torch.ones_like(x)], dim=1)
    best = torch.linalg.lstsq(matrix, y[:, None]).solution.flatten()
    assert model.slope.item() == pytest.approx(best[0].item(), abs=5e-3)
    assert model.offset.item() == pytest.approx(best[1].item(), abs=5e-3)
    assert "rows_per_second" in run.rows[-2]
    assert fitted.throughput["unit"] == "rows/s"
    assert math.isfinite(fitted.best_value)
