"""The experiments of conf/experiment/: every job composes, and jobs differ in nothing but what is swept."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch

from recsysml import catalogue, config, launch, multirun
from recsysml.diff import flatten
from recsysml.models.gpt import GPT

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
