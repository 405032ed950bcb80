"""The experiments of conf/experiment/: every job composes, jobs differ in nothing but what is swept, and those about
retrieval run to a report."""

from __future__ import annotations

import base64
import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from recsysml import catalogue, config, launch, multirun
from recsysml.cli import main
from recsysml.diff import flatten
from recsysml.models.gpt import GPT
from recsysml.report.gather import gather
from recsysml.report.sweeps import sweeps_of

CLAIMS = ("gpt2_ablation", "gpt2_small_data", "gpt2_large_data")
# those that sweep over worlds: data.seed stands for seed
WORLDS = (
    "ad_dial", "ad_methods", "feedback_loop", "retention_heads", "reward_model_lever", "reward_over_risk",
    "rl_alignment", "value_model_targets",
)  # fmt: skip
# what each claim about retrieval or ranking varies beside the seed
RECOMMENDING = {
    "logq": {"trainer.logq"},
    "user_representation": {"model.user"},
    "deep_hash": {"model.user", "model.d_model"},
    "cluster_softmax": {"trainer.loss"},
    "calibration_launch": {"trainer.listwise_weight"},
    "cohort_calibration": {"model.calibration", "model.calibrate_cohorts"},
    "user_representation_ranking": {"model.user"},
}


@cache
def jobs(name: str) -> list[Any]:
    """The checked configs of an experiment's sweep."""
    command = launch.Command([f"experiment={name}"], argv=[])
    with config.hydra_at() as hydra:
        _, all_overrides, _ = multirun.expand(hydra, command)
        return [config.compose_with(hydra, overrides, None) for overrides in all_overrides]


@pytest.mark.parametrize("name", list(catalogue.choices("experiment")))
def test_an_experiment_runs_as_a_sweep_over_one_data_set(name: str) -> None:
    configs = jobs(name)
    assert len(configs) > 2
    replicated = {"seed": 0} if name in WORLDS else {}
    assert len({repr(job) for job in configs}) == len(configs)
    data = {job.trainer.kind: dataclasses.replace(job.data, **replicated) for job in configs}
    assert all(dataclasses.replace(job.data, **replicated) == data[job.trainer.kind] for job in configs)
    assert len(data) == (2 if name == "retrieval_is_pretraining" else 1)


@pytest.mark.parametrize("name", CLAIMS)
def test_models_are_compared_under_one_training_over_three_seeds_and_behind_warm_up(name: str) -> None:
    configs = jobs(name)
    for optimizer in {job.trainer.optimizer for job in configs}:  # the one setting that one of them sweeps
        chosen = [job for job in configs if job.trainer.optimizer == optimizer]
        assert all(job.trainer == chosen[0].trainer for job in chosen)
        seeds: dict[str, set[int]] = {}
        for job in chosen:
            seeds.setdefault(job.model.name, set()).add(job.seed)
        assert len(seeds) > 1
        assert all(found == {1, 2, 3} for found in seeds.values())
    trainer = configs[0].trainer
    assert trainer.warmup_steps <= trainer.max_steps / 10


@pytest.mark.parametrize("name", list(RECOMMENDING))
def test_claims_about_recommending_vary_one_thing_over_three_seeds(name: str) -> None:
    configs = jobs(name)
    flat = [dict(flatten(dataclasses.asdict(job))) for job in configs]
    varied = {key for key in flat[0] if len({repr(values[key]) for values in flat}) > 1}
    assert varied == RECOMMENDING[name] | {"seed"}
    seeds: dict[tuple[str, ...], set[int]] = {}
    for values in flat:
        seeds.setdefault(tuple(str(values[key]) for key in RECOMMENDING[name]), set()).add(values["seed"])
    assert all(found == {1, 2, 3} for found in seeds.values())
    assert configs[0].trainer.warmup_steps <= configs[0].trainer.max_steps / 10


@pytest.mark.parametrize(
    ("name", "varied", "worlds"),
    [
        ("ad_dial", {"model.method", "model.dial", "data.seed"}, 3),
        (
            "ad_methods",
            {"model.name", "model.method", "trainer.baseline", "trainer.importance_weights", "trainer.reward_shift",
             "data.seed"},
            8,
        ),
    ],
)  # fmt: skip
def test_claims_about_ads_vary_what_they_say_over_worlds(name: str, varied: set[str], worlds: int) -> None:
    flat = [dict(flatten(dataclasses.asdict(job))) for job in jobs(name)]
    assert {key for key in flat[0] if len({repr(values[key]) for values in flat}) > 1} == varied
    settings: dict[tuple[str, ...], set[int]] = {}
    for values in flat:
        setting = tuple(str(values[key]) for key in sorted(varied - {"data.seed"}))
        settings.setdefault(setting, set()).add(values["data.seed"])
    assert all(found == set(range(1, worlds + 1)) for found in settings.values())


@pytest.mark.parametrize(
    ("name", "varied", "replicated"),
    [
        ("rl_alignment", {"trainer.policy_loss"}, ("data.seed", {3, 4, 5})),
        ("rl_reward_hacking", {"trainer.policy_loss", "trainer.kl_weight"}, ("seed", {1, 2, 3})),
        ("reward_model_lever", {"model.weights"}, ("data.seed", {3, 4, 5})),
        ("feedback_loop", {"trainer.policy_loss", "trainer.exploration"}, ("data.seed", {1, 2, 3})),
    ],
)
def test_claims_about_policies_vary_what_they_say(
    name: str, varied: set[str], replicated: tuple[str, set[int]]
) -> None:
    flat = [dict(flatten(dataclasses.asdict(job))) for job in jobs(name)]
    keys = dict.fromkeys(key for values in flat for key in values)
    differ = {key for key in keys if len({repr(values.get(key)) for values in flat}) > 1}
    parts = {next((name for name in varied if key.startswith(name)), key) for key in differ}
    assert parts == varied | {replicated[0]}
    settings: dict[tuple[str, ...], set[int]] = {}
    for values in flat:
        setting = tuple(repr(values.get(key)) for key in sorted(differ - {replicated[0]}))
        settings.setdefault(setting, set()).add(values[replicated[0]])
    assert len(settings) >= 4 and all(found == replicated[1] for found in settings.values())


def test_tokens_and_items_are_learnt_by_the_same_transformer_in_the_same_steps() -> None:
    configs = jobs("retrieval_is_pretraining")
    for part, fields in (
        ("model", ("n_layers", "n_heads", "d_model", "context_length", "norm", "mlp", "bias", "dropout")),
        ("trainer", ("max_steps", "batch_size", "lr", "beta1", "beta2", "weight_decay", "schedule", "optimizer")),
    ):
        found = [tuple(getattr(getattr(job, part), field) for field in fields) for job in configs]
        assert set(found) == {found[0]}
    assert {job.trainer.loss for job in configs if job.model.kind == "sasrec"} == {"full"}


@pytest.mark.parametrize("name", CLAIMS)
def test_models_that_are_compared_have_as_many_parameters(name: str) -> None:
    counts = {}
    for model in {job.model.name: job.model for job in jobs(name)}.values():
        with torch.device("meta"):  # every dimension is set: the size says nothing
            counts[model.name] = GPT(dataclasses.replace(model, size="nano"), 257).counted_parameters()["non_embedding"]
    for model, count in counts.items():
        assert count == pytest.approx(counts["gpt2"], rel=0.02), model  # swiglu's width is a multiple of 16


def test_each_switch_of_the_ablation_is_one_field_of_gpt2_as_gpt2_modern_has_it() -> None:
    def fields(model: str) -> dict[str, Any]:
        found = dataclasses.asdict(config.compose([f"model={model}"]).model)
        del found["name"]
        return found

    plain, modern = fields("gpt2"), fields("gpt2_modern")
    switches = [name for name in catalogue.choices("model") if name.startswith("gpt2_with/")]
    switched = set()
    for name in switches:
        (field,) = (key for key, value in fields(name).items() if value != plain[key])
        assert fields(name)[field] == modern[field]
        switched.add(field)
    assert switched == {key for key, value in modern.items() if value != plain[key]}


# overrides that make each claim about retrieval a matter of seconds, of two settings of what it varies
TINY_WORLD = ["data.users=60", "data.items=100", "data.events=1500", "model.d_model=8"]
RETRIEVAL = {
    "logq": [*TINY_WORLD, "trainer.logq=false,true", "trainer.in_batch_negatives=8"],
    "user_representation": [*TINY_WORLD, "model.user=cohort,mixture"],
    "deep_hash": [*TINY_WORLD, "model.user=none,deep_hash"],
    "cluster_softmax": [*TINY_WORLD, "trainer.loss=full,cluster"],
    "retrieval_is_pretraining": ["model=gpt2,sasrec", "model.position=rope"],
}
SHORT = [
    *("trainer.max_steps=2", "trainer.warmup_steps=1", "trainer.eval_every=2", "trainer.batch_size=4", "seed=1"),
    *("threads=1", "device=cpu", "progress=never", "sweep.name=tiny", "tracker.mode=disabled"),
]


@pytest.mark.parametrize("name", list(RETRIEVAL))
def test_a_claim_about_retrieval_runs_and_the_report_shows_it(name: str, own_outputs: Path, tmp_path: Path) -> None:
    assert main(["train", f"experiment={name}", "-m", *RETRIEVAL[name], *SHORT]) == 0
    folder = own_outputs / "sweep" / "tiny"
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert main(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert base64.b64encode((folder / "plots" / "sweep.png").read_bytes()).decode() in page
    (sweep,) = sweeps_of(gather([str(folder)]))
    assert len(sweep.table.rows) == len(jobs)
    for job, row in zip(jobs, sweep.table.rows, strict=True):
        found = json.loads((folder / job["run"] / "results.json").read_text())
        assert found["run"]["status"] == "ok"
        cells = {name: cell for name, cell in zip(sweep.table.columns, row, strict=True) if name in found["metrics"]}
        assert cells
        for metric, cell in cells.items():
            assert float(cell.text) == pytest.approx(found["metrics"][metric]["value"], rel=1e-3, abs=1e-4)
            assert cell.text in page
