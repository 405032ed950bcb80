"""The real trainer on a tiny world: it learns, whatever the loss; stopped and resumed it gives the same numbers."""

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsysml.cli import main
from recsysml.data.features import no_features
from recsysml.data.interactions import load
from recsysml.engine import checkpoint, loop
from recsysml.errors import ConfigError, DataError
from recsysml.evals.retrieval import judge
from recsysml.losses.gbce import gbce
from recsysml.losses.sampled_softmax import draw, excluded, sampled_softmax
from recsysml.nn.age_bias import AgeBias
from recsysml.retrieval import index, serving
from recsysml.retrieval.graphs import co_interaction
from recsysml.retrieval.opening import open_retriever
from recsysml.retrieval.questions import questions, training
from recsysml.retrieval.row_loss import RowLoss
from recsysml.schemas.data import InteractionsConfig
from recsysml.schemas.evals import RetrievalEvalConfig
from recsysml.schemas.retrievers import MultiHeadConfig, MultiStageConfig, SASRecConfig, TwoTowerConfig
from recsysml.schemas.run import RunConfig, TrackerConfig
from recsysml.schemas.trainers import RetrievalTrainerConfig
from tests.trainers.running import lines, results, stopped, train


@pytest.fixture
def ring(tmp_path):
    """Users walk round a ring of 20 items, all at once: only the order says what comes next."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(40):
        start = rng.integers(20)
        rows += [(f"u{user:02d}", f"i{(start + step) % 20:02d}", 100 * step + user) for step in range(10)]
    file = tmp_path / "events.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(file)
    return file


def configure(ring, model=None, **trainer):
    plain = {"max_steps": 60, "batch_size": 20, "lr": 1e-2, "warmup_steps": 5, "precision": "fp32"}
    plain |= {"eval_every": 20, "checkpoint_every": 10, "uniform_negatives": 15}
    return RunConfig(
        model=model or SASRecConfig(d_model=16, n_layers=1, context_length=8, dropout=0.1),
        data=InteractionsConfig(path=str(ring), split="last_out"),
        trainer=RetrievalTrainerConfig(**{**plain, **trainer}),
        eval=RetrievalEvalConfig(ks=[1, 5], baselines=["popularity"], batch_size=25),
        tracker=TrackerConfig(mode="disabled"),
        device="cpu",
        threads=1,
        progress="never",
    )


def asked(ring):
    """Histories of the test's users."""
    return questions(load(InteractionsConfig(path=str(ring), split="last_out")), "test", mask_seen=True).histories


LOSSES: list[dict[str, Any]] = [
    {"loss": "full"},
    {"loss": "sampled"},
    {"loss": "sampled", "uniform_negatives": 0, "in_batch_negatives": 40, "mask_known": True, "row_weights": "user"},
    {"loss": "sampled", "uniform_negatives": 5, "in_batch_negatives": 20, "hard_negatives": 3, "logq": False},
    {"loss": "sampled", "logq_positive": True},
    {"loss": "gbce", "temperature": 0.1, "max_steps": 200},  # its logits must fall to -3 before it tells items apart
    {"loss": "hierarchical"},
    {"loss": "cluster", "clusters": 5, "row_weights": "item"},
]


@pytest.mark.parametrize("settings", LOSSES, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_the_ring_is_learnt_by_every_loss(ring, tmp_path, settings):
    found = results(train(configure(ring, **settings), tmp_path))
    metric = found["metrics"]["test/recall@1"]
    assert metric["value"] > 0.9
    assert metric["baseline"] < 0.4
    assert found["throughput"]["unit"] == "events/s"
    assert found["protocol"]["candidates"] == "full"


def test_two_towers_learn_it_too_and_are_opened_with_their_features(ring, tmp_path, monkeypatch):
    features = dataclasses.replace(no_features(20), vectors=np.eye(20, dtype=np.float32))
    loaded = load(InteractionsConfig(path=str(ring), split="last_out"))
    interactions = dataclasses.replace(loaded, item_features=features)
    monkeypatch.setattr("recsysml.data.interactions.load", lambda config: interactions)
    model = TwoTowerConfig(d_model=16, d_hidden=32, context_length=8, history="transformer", n_layers=1)
    settings = {"loss": "sampled", "in_batch_negatives": 20, "temperature": 0.1, "max_steps": 80}
    path = train(configure(ring, model, **settings), tmp_path)
    assert results(path)["metrics"]["test/recall@1"]["value"] > 0.8
    opened = open_retriever(path / "checkpoints" / "best")
    assert opened.kind == "two_tower"
    assert opened.parameters == results(path)["model"]["parameters"]  # features are kept and are none
    assert opened.retriever.encoder.user_events.tolist() == [8] * 40 + [0]  # of ten each two are not learnt from
    asked = questions(interactions, "test", mask_seen=True)
    judged = judge(opened.retriever, asked, mask_seen=True, ks=[1], batch_size=7)
    assert judged.users["recall@1"].mean() == results(path)["metrics"]["test/recall@1"]["value"]


@pytest.mark.parametrize(
    "settings", [{"loss": "sampled", "in_batch_negatives": 10, "debias": "age"}, *LOSSES[-2:]], ids=str
)
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(ring, tmp_path, monkeypatch, settings):
    config = configure(ring, max_steps=25, log_every=1, **settings)
    whole = train(config, tmp_path / "whole")

    path = stopped(config, tmp_path / "stopped", monkeypatch, at=17)
    train(config, tmp_path, resume=path)
    assert lines(path) == lines(whole)
    assert results(path)["metrics"] == results(whole)["metrics"]


@pytest.mark.parametrize("loss", ["hierarchical", "cluster"])
@pytest.mark.parametrize(
    "model", [None, TwoTowerConfig(d_model=16, d_hidden=16, context_length=8)], ids=["sasrec", "two_tower"]
)
def test_a_head_is_opened_with_its_run_and_has_no_index(ring, tmp_path, capsys, loss, model):
    path = train(configure(ring, model, loss=loss, temperature=0.2, max_steps=20), tmp_path)
    opened = open_retriever(path / "checkpoints" / "best")
    interactions = load(InteractionsConfig(path=str(ring), split="last_out"))
    asked = questions(interactions, "test", mask_seen=True)
    scores = opened.retriever.scores(asked.histories)
    assert np.exp(scores.astype(np.float64)).sum(axis=1) == pytest.approx(np.ones(len(scores)), rel=1e-4)
    judged = judge(opened.retriever, asked, mask_seen=True, ks=[1], batch_size=7)
    assert judged.users["recall@1"].mean() == results(path)["metrics"]["test/recall@1"]["value"]
    assert not (path / "index").exists()
    assert main(["recommend", str(path), "--history", "i03,i04", "-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["export", str(path), str(tmp_path / "out")]) == 2
    assert "has no vectors to export" in capsys.readouterr().err


SMALL = {"d_model": 16, "d_hidden": 32, "context_length": 8, "dropout": 0.1}
SAMPLED = {"loss": "sampled", "in_batch_negatives": 20, "temperature": 0.1}


def test_two_stages_in_one_run_find_order_and_serve(ring, tmp_path, capsys):
    model = MultiStageConfig(**SMALL, n_candidates=6, d_ranker=16, teacher="seq_knn")
    path = train(configure(ring, model, **SAMPLED, max_steps=80), tmp_path)
    found = results(path)["metrics"]
    assert found["test/recall@1"]["value"] > 0.8
    given = found["test/candidate_recall@6"]["value"]
    assert found["test/recall@5"]["value"] <= given
    assert found["test/recall@5"]["baselines"]["stage_one"] <= given  # the six nearest hold the five nearest
    assert any("train/rank_loss" in row for row in lines(path))

    assert main(["eval", f"checkpoint={path}", f"outputs={tmp_path}"]) == 0
    (judged,) = (tmp_path / "eval").iterdir()
    test = {name: entry for name, entry in found.items() if name.startswith("test/")}
    test.pop("test/index_recall@100")
    assert results(judged)["metrics"] == test

    capsys.readouterr()
    told = []
    shutil.copytree(path / "checkpoints" / "best", tmp_path / "alone" / "best")
    for each in (path, tmp_path / "alone" / "best"):  # by its index, then without one
        assert main(["recommend", str(each), "--history", "i03,i04,i05", "-k", "15"]) == 0
        told.append([line.split()[2] for line in capsys.readouterr().out.splitlines()])
    assert told[0] == told[1]
    assert sorted(told[0] + ["i03", "i04", "i05"])[:3] == ["i00", "i01", "i02"]
    assert main(["export", str(path), str(tmp_path / "out")]) == 0
    assert np.load(tmp_path / "out" / "user_vectors.npy").shape == (40, 16)


def test_a_ranker_learns_on_top_of_a_runs_towers_from_another_run(ring, tmp_path):
    towers = train(configure(ring, TwoTowerConfig(**SMALL), **SAMPLED, max_steps=30), tmp_path / "towers")
    teacher = train(configure(ring, max_steps=30), tmp_path / "teacher")
    model = MultiStageConfig(**SMALL, n_candidates=6, init_from=str(towers), teacher=str(teacher))
    path = train(configure(ring, model, **SAMPLED, max_steps=30, eval_every=30), tmp_path)
    before, after = (open_retriever(each / "checkpoints" / "best").retriever for each in (towers, path))
    assert np.array_equal(before.item_vectors(), after.item_vectors())
    assert np.array_equal(before.scores(asked(ring)), after.first_stage().scores(asked(ring)))
    alone = results(towers)["metrics"]["test/recall@1"]["value"]
    found = results(path)["metrics"]["test/recall@1"]
    assert found["baselines"]["stage_one"] == alone
    assert found["value"] > alone

    for wrong, words in (
        ({"init_from": str(teacher)}, "holds a model of kind sasrec; give the directory of a run of two_tower"),
        ({"init_from": str(towers), "d_hidden": 8}, r"was made with model\.d_hidden=32: give the same"),
    ):
        with pytest.raises(ConfigError, match=words):
            train(configure(ring, dataclasses.replace(model, **wrong), max_steps=1), tmp_path / "wrong")


def test_a_run_of_two_stages_that_was_stopped_goes_on_to_the_same_numbers(ring, tmp_path, monkeypatch):
    model = MultiStageConfig(**SMALL, n_candidates=6, d_ranker=8)
    config = configure(ring, model, **SAMPLED, max_steps=25)
    whole = train(config, tmp_path / "whole")
    path = stopped(config, tmp_path / "stopped", monkeypatch, at=17)
    train(config, tmp_path, resume=path)
    assert lines(path) == lines(whole)
    assert results(path)["metrics"] == results(whole)["metrics"]


def test_graphs_of_training_events_and_friends_go_with_the_checkpoint(ring, tmp_path, monkeypatch):
    friends = np.array([(user, user + 1) for user in range(0, 40, 2)])
    interactions = dataclasses.replace(load(InteractionsConfig(path=str(ring), split="last_out")), friends=friends)
    monkeypatch.setattr("recsysml.data.interactions.load", lambda config: interactions)
    graphs = {"item_graph": "co_interaction", "user_graph": "friends", "graph_degree": 3}
    model = TwoTowerConfig(d_model=16, d_hidden=32, context_length=8, history="transformer", n_layers=1, **graphs)
    settings = {"loss": "sampled", "in_batch_negatives": 20, "temperature": 0.1, "max_steps": 80}
    path = train(configure(ring, model, **settings), tmp_path)
    assert results(path)["metrics"]["test/recall@1"]["value"] > 0.7
    opened = open_retriever(path / "checkpoints" / "best")
    encoder = opened.retriever.encoder
    # edges are those of the training events alone: no item hears another that only a later event put beside it
    expected = co_interaction(training(interactions), 20, 3)
    assert torch.equal(encoder.item_graph_sources, expected.sources)
    assert encoder.user_graph_sources.tolist() == [user ^ 1 for user in range(40)]
    asked = questions(interactions, "test", mask_seen=True)
    judged = judge(opened.retriever, asked, mask_seen=True, ks=[1], batch_size=7)
    assert judged.users["recall@1"].mean() == results(path)["metrics"]["test/recall@1"]["value"]


@pytest.mark.parametrize("settings", [{"loss": "full"}, {"loss": "sampled", "in_batch_negatives": 20}], ids=str)
@pytest.mark.parametrize("pooling", ["max", "logsumexp"])
def test_several_vectors_a_user_learn_it_too_and_are_served_by_the_index(ring, tmp_path, settings, pooling):
    sizes = {"d_model": 16, "d_hidden": 32, "context_length": 8, "n_layers": 1}
    model = MultiHeadConfig(**sizes, history="transformer", n_vectors=3, pooling=pooling)
    path = train(configure(ring, model, **settings, temperature=0.1, max_steps=80), tmp_path)
    assert results(path)["metrics"]["test/recall@1"]["value"] > 0.8
    interactions = load(InteractionsConfig(path=str(ring), split="last_out"))
    opened = open_retriever(path / "checkpoints" / "best")
    for user in ("u00", "u13"):
        row = serving.history_of_user(opened, interactions, user)
        pair = [serving.recommendations(opened, row, 6, mask_seen=True, folder=at) for at in (path / "index", None)]
        assert [item for item, _ in pair[0]] == [item for item, _ in pair[1]]
        assert [score for _, score in pair[0]] == pytest.approx([score for _, score in pair[1]], abs=1e-5)
    histories = serving.everything(interactions, np.arange(40))
    serving.export(opened, tmp_path / "out", histories)
    assert np.load(tmp_path / "out" / "user_vectors.npy").shape == (40, 3, 16)


def test_the_loss_of_several_vectors_is_that_of_their_pooled_products():
    torch.manual_seed(0)
    states, items, targets = torch.randn(2, 3, 4, 5), torch.randn(7, 5), torch.tensor([[1, 2, -100], [6, 5, 4]])
    losses = []
    for b, t in (targets >= 0).nonzero().tolist():
        products = torch.stack([items @ states[b, t, h] for h in range(4)]).amax(dim=0)
        losses.append(-torch.log_softmax(products / 0.5, dim=0)[targets[b, t]])
    for settings in ({"loss": "full"}, {"loss": "sampled", "uniform_negatives": 0, "hard_negatives": 7}):
        config = RetrievalTrainerConfig(**settings, temperature=0.5)
        found = RowLoss(config, torch.ones(7), torch.ones(2), pool=lambda products: products.amax(dim=-2))
        torch.testing.assert_close(found(states, items, targets, torch.arange(2)), torch.stack(losses).mean())


@pytest.mark.parametrize("loss", ["full", "sampled", "gbce"])
def test_the_bias_of_age_is_learnt_and_never_served(ring, tmp_path, loss):
    path = train(configure(ring, loss=loss, debias="age", max_steps=20), tmp_path)
    folder = path / "checkpoints" / "last"
    assert checkpoint.load_weights(folder)[0]["age_bias.table"].abs().max() > 0.01
    asked = questions(load(InteractionsConfig(path=str(ring), split="last_out")), "test", mask_seen=True)
    opened = open_retriever(folder)
    assert not any("age_bias" in name for name in opened.retriever.encoder.state_dict())
    tensors, metadata = checkpoint.load_weights(folder)
    tensors["age_bias.table"] += torch.randn(len(tensors["age_bias.table"]))
    described = {key: metadata[key] for key in ("model", "data", "ids")}
    other = checkpoint.save(tmp_path / "other", 0, tensors, {}, described, keep=1, is_best=True)
    scores = [found.retriever.scores(asked.histories) for found in (opened, open_retriever(other))]
    assert np.array_equal(*scores)


def test_an_item_that_training_never_saw_has_no_age_and_hinders_nothing(ring, tmp_path):
    with ring.open("a") as file:
        file.write("u00,late,5000\n")  # the last event of its user, and so the test's
    config = configure(ring, debias="age", max_steps=12)
    path = train(config, tmp_path / "whole")
    assert results(path)["metrics"]["test/recall@1"]["n"] == 40
    assert all(tensor.isfinite().all() for tensor in checkpoint.load_weights(path / "checkpoints" / "last")[0].values())


def test_the_bias_of_age_is_added_to_every_logit():
    torch.manual_seed(0)
    states, items, targets = torch.randn(2, 3, 5), torch.randn(7, 5), torch.tensor([[1, 2, -100], [6, 5, 4]])
    times, bias = torch.rand(2, 3) * 64, AgeBias(torch.rand(7) * 40, span=64.0)
    torch.nn.init.normal_(bias.table)
    losses = []
    for b, t in (targets >= 0).nonzero().tolist():
        logits = items @ states[b, t] + torch.stack([bias(times[b, t], torch.tensor(i)) for i in range(7)])
        losses.append(-torch.log_softmax(logits, dim=0)[targets[b, t]])
    expected, counts = torch.stack(losses).mean(), torch.ones(7)
    full = RowLoss(RetrievalTrainerConfig(), counts, torch.ones(2), bias=bias)
    torch.testing.assert_close(full(states, items, targets, torch.arange(2), times), expected)
    # hard negatives that are the whole catalogue count each item exactly once
    settings = RetrievalTrainerConfig(loss="sampled", uniform_negatives=0, hard_negatives=7)
    sampled = RowLoss(settings, counts, torch.ones(2), bias=bias)
    torch.testing.assert_close(sampled(states, items, targets, torch.arange(2), times), expected)


def test_ages_need_times(ring, tmp_path, monkeypatch):
    timeless = dataclasses.replace(load(InteractionsConfig(path=str(ring), split="last_out")), timed=False)
    monkeypatch.setattr("recsysml.data.interactions.load", lambda config: timeless)
    with pytest.raises(DataError, match="no times that ages could be of"):
        train(configure(ring, debias="age"), tmp_path)
    with pytest.raises(ConfigError, match=r"trainer\.debias=age: trainer\.loss=cluster"):
        RetrievalTrainerConfig(loss="cluster", debias="age").validate()


def test_the_best_weights_are_those_of_the_highest_ndcg(ring, tmp_path, monkeypatch):
    seen = {}
    fit = loop.fit

    def remember(*arguments, **more):
        seen["fitted"] = fit(*arguments, **more)
        return seen["fitted"]

    monkeypatch.setattr("recsysml.trainers.retrieval.fit", remember)
    path = train(configure(ring, eval_every=10), tmp_path)
    ndcg = {row["step"]: row["val/ndcg@1"] for row in lines(path) if "val/ndcg@1" in row}
    assert seen["fitted"].best_value == max(ndcg.values())
    assert ndcg[seen["fitted"].best_step] == max(ndcg.values())
    assert results(path)["metrics"]["val/ndcg@1"]["value"] == max(ndcg.values())


def test_the_loss_counts_real_targets_alone():
    """Against cross-entropy row by row; what stands in the padding's states does not matter."""
    torch.manual_seed(0)
    states, items = torch.randn(3, 4, 5), torch.randn(7, 5)
    targets = torch.tensor([[1, 2, -100, -100], [3, -100, -100, -100], [6, 5, 4, 0]])
    users, counts = torch.arange(3), torch.arange(1, 8)
    for weights, temperature in (("none", 1.0), ("item", 0.5), ("user", 1.0)):
        settings = RetrievalTrainerConfig(row_weights=weights, temperature=temperature)
        loss = RowLoss(settings, counts, torch.tensor([4, 9, 1]))
        total, norm = 0.0, 0.0
        for b, t in (targets >= 0).nonzero().tolist():
            own = torch.log_softmax(items @ states[b, t] / temperature, dim=0)[targets[b, t]]
            weight = {"none": 1.0, "item": float(counts[targets[b, t]]) ** -0.5, "user": (4, 9, 1)[b] ** -0.5}[weights]
            total, norm = total - weight * float(own), norm + weight
        assert float(loss(states, items, targets, users)) == pytest.approx(total / norm, rel=1e-5)
        changed = states.clone()
        changed[targets < 0] = 1e3
        assert torch.equal(loss(changed, items, targets, users), loss(states, items, targets, users))


@pytest.mark.parametrize("kind", ["sampled", "gbce"])
def test_the_sampled_losses_are_given_the_draws_the_config_asks_for(kind):
    torch.manual_seed(0)
    states, items, counts = torch.randn(2, 3, 5), torch.randn(9, 5), torch.arange(1, 10)
    targets, users = torch.tensor([[1, 2, -100], [8, 8, 0]]), torch.arange(2)
    settings = RetrievalTrainerConfig(loss=kind, uniform_negatives=6, in_batch_negatives=2 if kind == "sampled" else 0)
    loss = RowLoss(settings, counts, torch.ones(2))
    torch.manual_seed(1)
    found = loss(states, items, targets, users)
    torch.manual_seed(1)
    wanted = targets[targets >= 0]
    probability = counts / counts.sum()
    drawn = draw(9, uniform=6, in_batch=settings.in_batch_negatives, batch_items=wanted, probability=probability)
    queries = states[targets >= 0]
    positive, negative = (queries * items[wanted]).sum(dim=1), queries @ items[drawn.ids].T
    out = excluded(drawn.ids, wanted)
    if kind == "gbce":
        torch.testing.assert_close(found, gbce(positive, negative, out, 9, 0.75))
    else:
        torch.testing.assert_close(found, sampled_softmax(positive, negative, drawn.log_expected, out))


def test_from_the_command_line_to_recommendations(ring, own_outputs, tmp_path, capsys):
    choices = ["data=interactions", f"data.path={ring}", "data.split=last_out", "eval.ks=[1]", "eval.baselines=[]"]
    small = [
        "model.d_model=16",
        "model.n_layers=1",
        "model.context_length=8",
        "trainer.max_steps=40",
        "trainer.lr=1e-2",
    ]
    assert main(["train", "model=sasrec", *choices, *small, "trainer.warmup_steps=2", "threads=1", "device=cpu"]) == 0
    assert capsys.readouterr().err.count("leaks across users") == 1
    (path,) = (own_outputs / "train").iterdir()
    assert main(["eval", f"checkpoint={path}"]) == 0
    (judged,) = (own_outputs / "eval").iterdir()
    test = {name: entry for name, entry in results(path)["metrics"].items() if name.startswith("test/")}
    assert test.pop("test/index_recall@100")["value"] == 1.0
    assert results(judged)["metrics"] == test

    assert "leaks across" not in capsys.readouterr().err  # who trains is told
    assert main(["recommend", "last", "--history", "i03,i04,i05", "-k", "3"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[0][2] == "i06"  # what comes next on the ring
    assert not {row[2] for row in rows} & {"i03", "i04", "i05"}
    assert main(["recommend", str(path), "--user", "u07", "-k", "30"]) == 0
    found = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    events = pl.read_csv(ring).filter(pl.col("user_id") == "u07").sort("timestamp")["item_id"].to_list()
    assert sorted(found) == sorted({f"i{i:02d}" for i in range(20)} - set(events))  # the rest, and nothing twice

    (path / "index" / "index.faiss").write_bytes(b"broken")
    other = path / "checkpoints" / "step-00000000"
    for asked, said in ((other, True), (path, True), (path, False), (other, True), (path, False)):
        assert main(["recommend", str(asked), "--user", "u07", "-k", "30"]) == 0
        again = capsys.readouterr()
        names = [line.split()[2] for line in again.out.splitlines()]
        assert names == found or (asked == other and sorted(names) == sorted(found))
        assert ("building it anew" in again.err) == said
        assert "leaks across" not in again.err
    assert json.loads((path / "index" / "index.json").read_text())["measured_on"] == 40  # users, and not the one asked

    for gone in ("index.json", ""):  # the file, and then the whole folder
        (path / "index" / gone).rename(tmp_path / f"gone{gone}")
        for said in (True, False):
            assert main(["recommend", str(path), "--user", "u07", "-k", "30"]) == 0
            again = capsys.readouterr()
            assert [line.split()[2] for line in again.out.splitlines()] == found
            assert ("index.json is missing; building it anew" in again.err) == said
            assert (path / "index" / "index.json").is_file()

    assert main(["export", str(path), str(tmp_path / "out")]) == 0
    assert "20 items, width 16; flat index, recall@100 1.0000" in capsys.readouterr().out
    vectors = np.load(tmp_path / "out" / "item_vectors.npy")
    users = np.load(tmp_path / "out" / "user_vectors.npy")
    assert (vectors.shape, users.shape) == ((20, 16), (40, 16))
    names = json.loads((tmp_path / "out" / "item_ids.json").read_text())
    assert json.loads((tmp_path / "out" / "user_ids.json").read_text()) == [f"u{n:02d}" for n in range(40)]
    order = [names[i] for i in np.argsort(-(vectors @ users[7])) if names[i] not in events]
    assert order == found
    beside = index.load(tmp_path / "out", vectors, lambda: pytest.fail("it is of other vectors"))
    assert [names[i] for i in beside.search(users[7:8], 20)[0][0] if names[i] not in events] == found

    for arguments, words in (
        (["--user", "u99"], "has no such user. Did you mean: u"),
        (["--history", "i77"], "no item i77"),
        ([], "give --user ID"),
        (["--user", "u07", "--history", "i01"], "not both"),
    ):
        assert main(["recommend", str(path), *arguments]) == 2
        assert words in capsys.readouterr().err

    (path / "config.yaml").rename(tmp_path / "config.yaml")
    missing = f"{path / 'config.yaml'} is missing"
    assert main(["recommend", str(path), "--user", "u07"]) == 2
    assert f"{missing}, so users' histories are not known: give --history" in capsys.readouterr().err
    assert main(["recommend", str(path), "--history", "i03,i04,i05", "-k", "3"]) == 0
    assert main(["export", str(path), str(tmp_path / "alone")]) == 0
    said = capsys.readouterr()
    assert f"{missing}, so users are not known" in said.err and "vectors of 20 items" in said.out
    for command in (["train", "--resume", str(path)], ["config", "--from", str(path)]):
        assert main(command) == 2
        assert missing in capsys.readouterr().err
    main(["eval", f"checkpoint={path}"])
    assert f"{missing}: data and eval are the defaults" in capsys.readouterr().err
