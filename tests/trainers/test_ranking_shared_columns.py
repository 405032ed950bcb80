"""Columns of users through a whole training: which rows stand together, that nothing else changes, and judged again."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from recsysml.cli import main
from recsysml.models import mtml
from recsysml.schemas.evals import RankingEvalConfig
from recsysml.schemas.impressions import ImpressionsConfig
from recsysml.schemas.rankers import MTMLConfig
from recsysml.schemas.run import RunConfig, TrackerConfig
from recsysml.schemas.trainers import RankingTrainerConfig
from recsysml.trainers import ranking
from tests.trainers.running import lines, results, stopped, train

N = 1500


@pytest.fixture
def file(tmp_path):
    """Thirty users, whose town and age group are theirs; a click where town and item are of one parity, mostly."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 30, N), rng.integers(0, 8, N)
    towns = users % 4
    click = rng.random(N) < np.where((towns + items) % 2 == 0, 0.8, 0.2)
    columns = {"item": items, "town": towns, "user": users, "group": users % 3, "click": click.astype(int)}
    path = tmp_path / "log.csv"
    pl.DataFrame(columns | {"noise": rng.normal(size=N).round(3)}).write_csv(path)
    return path


def configure(file, interaction="concat", norm="none", user_columns=("town", "group"), **trainer):
    small = {"d_embedding": 8, "expert_widths": [16, 8], "tower_widths": [8], "n_experts": 2, "history": "none"}
    plain = {"max_steps": 15, "batch_size": 100, "lr": 1e-2, "warmup_steps": 2, "precision": "fp32"}
    return RunConfig(
        model=MTMLConfig(interaction=interaction, norm=norm, **small),
        data=ImpressionsConfig(
            path=str(file), user_column="user", user_columns=list(user_columns), dense=["noise"],
            sparse=["item", "town", "user", "group"], labels={"click": "binary"},
        ),
        trainer=RankingTrainerConfig(**plain | {"eval_every": 5, "checkpoint_every": 5} | trainer),
        eval=RankingEvalConfig(baselines=[]),
        tracker=TrackerConfig(mode="disabled"),
        device="cpu",
        threads=1,
        progress="never",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "together"),
    [({"batch_size": 512}, 16), ({}, 3), ({"user_columns": ()}, 1), ({"interaction": "dcn"}, 1), ({"norm": "batch"}, 1),
     ({"rows_per_user": 4}, 4), ({"listwise_weight": 0.1}, None)],
    ids=str,
)  # fmt: skip
def test_rows_of_a_user_stand_together_where_their_columns_are_multiplied_once(
    file, tmp_path, monkeypatch, changes, together
):
    drawn = []

    class Watched(ranking.ImpressionBatches):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            drawn.append(self.order)

    monkeypatch.setattr(ranking, "ImpressionBatches", Watched)
    train(configure(file, **changes, **({} if "rows_per_user" in changes else {"max_steps": 1})), tmp_path)
    assert drawn[0].run == together


@pytest.mark.parametrize(
    ("device", "settings", "together"),
    [
        ("cpu", {}, 16),
        ("cpu", {"batch_size": 4096}, 16),
        ("cpu", {"batch_size": 31}, 1),
        ("meta", {}, 1),
        ("cpu", {"compile": True}, 1),
        ("meta", {"rows_per_user": 4}, 4),
    ],
    ids=str,
)
def test_where_nothing_is_multiplied_once_rows_lie_apart(device, settings, together):
    """As on a GPU, and in a step that is compiled."""
    parameter = torch.empty(1, device=device)
    model = SimpleNamespace(n_shared=3, config=MTMLConfig(norm="none"), parameters=lambda: iter([parameter]))
    assert ranking.rows_together(RankingTrainerConfig(**settings), model) == together


def test_a_training_is_the_same_as_of_rows_written_out(file, tmp_path, monkeypatch):
    once = train(configure(file), tmp_path / "once")
    shared = []
    monkeypatch.setattr(mtml, "alike", lambda ids: shared.append(ids.shape[1]))
    written_out = train(configure(file), tmp_path / "out")
    assert set(shared) == {3}
    rows = [[{k: v for k, v in row.items() if v is not None} for row in lines(path)] for path in (once, written_out)]
    for row, other in zip(*rows, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_stopped_it_goes_on_to_the_same_numbers(file, tmp_path, monkeypatch):
    whole = train(configure(file), tmp_path / "whole")
    cut = stopped(configure(file), tmp_path / "cut", monkeypatch, at=8)
    train(configure(file), tmp_path / "cut", resume=cut)
    assert lines(cut) == lines(whole)


def test_a_checkpoint_is_judged_alike_however_the_config_names_its_columns(file, own_outputs, capsys):
    trained = train(configure(file), own_outputs)
    expected = results(trained)["metrics"]["test/click/auc"]["value"]
    asked = ["eval", f"checkpoint={trained}", "data=impressions", f"data.path={file}", "data.user_column=user"]
    asked += ["+data.labels.click=binary", "eval.baselines=[]", "threads=1", "device=cpu", "tracker.mode=disabled"]
    pl.read_csv(file).with_columns(late=pl.col("item") * 2).write_csv(file)
    for sparse in ("[group,user,item,town]", "[town,late,group,item,user]"):
        known = set((own_outputs / "eval").glob("*"))
        assert main([*asked, "data.dense=[noise]", f"data.sparse={sparse}"]) == 0
        (judged,) = set((own_outputs / "eval").glob("*")) - known
        assert results(judged)["metrics"]["test/click/auc"]["value"] == pytest.approx(expected, abs=1e-9)
    capsys.readouterr()
    assert main([*asked, "data.dense=[noise]", "data.sparse=[group,user,item]"]) == 1
    assert "has no sparse feature town, which mtml reads" in capsys.readouterr().err


def test_a_checkpoint_is_judged_with_a_part_of_its_data_changed(file, own_outputs, capsys):
    """What is typed is looked at beside what the run had: alone it would name columns that nothing reads."""
    pl.read_csv(file).with_columns(late=pl.col("item") * 2).write_csv(file)
    trained = train(configure(file), own_outputs)
    before = results(trained)["metrics"]
    asked = ["eval", f"checkpoint={trained}", "eval.baselines=[]", "tracker.mode=disabled"]
    changes = ("data.cohorts=[town]", "data.user_columns=[group]", "+data.labels.late=real", "+data.hashed.town=8")
    for words in ([change] for change in changes):
        known = set((own_outputs / "eval").glob("*"))
        assert main([*asked, *words]) == 0, words
        (judged,) = set((own_outputs / "eval").glob("*")) - known
        found = results(judged)["metrics"]
        assert found["test/click/auc"]["value"] == pytest.approx(before["test/click/auc"]["value"], abs=1e-9)
        more = found["test/click/mce"]["segments"] - before["test/click/mce"]["segments"]
        assert (more > 0) == (words == ["data.cohorts=[town]"])
    capsys.readouterr()
    other = file.with_name("other.csv")
    pl.read_csv(file).write_csv(other)
    for words, warned in (["data.test_fraction=0.4"], True), (["data.test_fraction=0.4", f"data.path={other}"], False):
        assert main([*asked, *words]) == 0
        said = "the run was cut by data.test_fraction=0.2: some of what is judged now may be what it learnt from"
        assert (said in capsys.readouterr().err) == warned
    for words, line in (
        ("data.cohorts=[village]", "data.cohorts: village is none of data.sparse"),
        ("data.val_fraction=2", "data.val_fraction=2"),
        ("data.cohort=[town]", "Did you mean: data.cohorts?"),
        ("eval.baselines.0=base_rate", "eval.baselines.0: a list is given whole"),
    ):
        assert main([*[word for word in asked if "baselines" not in word], words]) == 2
        assert line in capsys.readouterr().err
    other = ["data=impressions", f"data.path={file}", "data.sparse=[item,town,user,group]", "data.dense=[noise]"]
    for label in ("+data.labels.late=real", "+data.labels.click=real"):
        assert main([*asked, *other, "data.user_column=user", label]) == 1
        assert "has no binary label click, which mtml predicts" in capsys.readouterr().err


def test_what_cannot_be_is_refused():
    with pytest.raises(Exception, match="whole requests"):
        RankingTrainerConfig(rows_per_user=4, listwise_weight=1.0).validate()
    with pytest.raises(Exception, match="a batch has 8 rows"):
        RankingTrainerConfig(rows_per_user=9, batch_size=8).validate()
    with pytest.raises(Exception, match=r"set data\.user_column"):
        RankingTrainerConfig(rows_per_user=4).check_data(ImpressionsConfig())
    RankingTrainerConfig(rows_per_user=4).check_data(dataclasses.replace(ImpressionsConfig(), user_column="user"))
