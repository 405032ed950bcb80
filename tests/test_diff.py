"""Two runs compared: verdicts against scipy and simulation, refusals, damaged files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats

from recsysml import diff
from recsysml.diff import BETTER, NOISE, REFUSED, WORSE, compare, main, render
from recsysml.diff_sides import Side
from recsysml.errors import ConfigError
from recsysml.results import Run


def make(root, metrics, *, examples=None, config=None, data="d" * 64, protocol=None, tokenizer=None, status="ok"):
    """A run with metrics {name: (value, stderr, better)} and examples {name: (ids, values)}."""
    run = Run.create(root, "train", "x", argv=[], config=config or {"seed": 1}, overrides=[])
    run.set_data("text", data, {"val": 10}, **({"tokenizer": tokenizer} if tokenizer else {}))
    run.set_protocol(**(protocol or {"split": "val"}))
    for name, (value, stderr, better) in metrics.items():
        run.metric(name, value, stderr=stderr, n=100, better=better)
    for name, (ids, values) in (examples or {}).items():
        run.add_examples(name, ids, values)
    run.finish(status)
    return run.path


def scored(root, columns, *, better="higher", ids=None, **more):
    """A run whose metrics are the means of these per-example columns, with the usual standard errors."""
    ids = ids or [f"q{i}" for i in range(len(next(iter(columns.values()))))]
    metrics = {name: (values.mean(), stats.sem(values), better) for name, values in columns.items()}
    return make(root, metrics, examples={name: (ids, values) for name, values in columns.items()}, **more)


@pytest.fixture(autouse=True)
def quick_environment(monkeypatch):
    """Asking git at every start is most of the time of these tests, and none of their subject."""
    monkeypatch.setattr("recsysml.results.environment", lambda: {"python": "3"})


def only(comparison):
    (row,) = comparison.metrics
    return row


def test_where_data_are_fetched_from_is_no_difference(tmp_path):
    metrics = {"val/loss": (1.0, 0.1, "lower")}
    urls = [{"data": {"path": ["x.txt"], "urls": {"x.txt": url}}} for url in ("https://here/x", "https://there/x")]
    other = {"data": {"path": ["y.txt"], "urls": {}}}
    one, two, three = (make(tmp_path, metrics, config=config) for config in (*urls, other))
    assert compare(one, two).config == []
    assert [change.key for change in compare(one, three).config] == ["data.path"]


# --- tests and verdicts -----------------------------------------------------------------------------------------------


def test_pairs_are_matched_by_id_whatever_their_order(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.normal(5, 2, 200)
    b = a + rng.normal(-0.1, 0.3, 200)
    ids = [f"module:{i}" for i in range(200)]
    shuffled = rng.permutation(200)
    first = scored(tmp_path, {"val/loss": a}, better="lower", ids=ids)
    second = scored(tmp_path, {"val/loss": b[shuffled]}, better="lower", ids=[ids[i] for i in shuffled])
    row = only(compare(first, second))
    reference = stats.ttest_rel(b, a)
    interval = reference.confidence_interval(0.95)
    assert row.p == pytest.approx(reference.pvalue)
    assert (row.effect, row.low, row.high) == pytest.approx(((b - a).mean(), interval.low, interval.high))
    assert (row.verdict, row.test, row.n) == (BETTER, "paired t", 200)
    assert only(compare(second, first)).verdict == WORSE
    assert only(compare(second / "results.json", first / "results.json")).verdict == WORSE


def test_zero_one_scores_take_mcnemar(tmp_path):
    a = np.array([0.0] * 9 + [1.0] * 21)
    b = np.array([1.0] * 9 + [0.0] + [1.0] * 20)
    row = only(compare(scored(tmp_path, {"lm/x/acc": a}), scored(tmp_path, {"lm/x/acc": b})))
    assert row.p == pytest.approx(22 / 1024)
    assert (row.test, row.verdict) == ("exact McNemar", BETTER)


def test_without_pairs_the_two_standard_errors_decide(tmp_path):
    first = make(tmp_path, {"test/recall@20": (0.30, 0.03, "higher")})
    for value, verdict in ((0.42, BETTER), (0.34, NOISE), (0.18, WORSE)):
        row = only(compare(first, make(tmp_path, {"test/recall@20": (value, 0.04, "higher")})))
        assert row.p == pytest.approx(2 * stats.norm.sf(abs(value - 0.30) / 0.05))
        assert row.verdict == verdict
        assert "no per-example scores in A and B" in row.reason


def test_other_examples_or_a_metric_that_is_no_mean_are_not_paired(tmp_path):
    values = np.linspace(0, 1, 50)
    first = scored(tmp_path, {"test/auc": values})
    other_ids = scored(tmp_path, {"test/auc": values}, ids=[f"z{i}" for i in range(50)])
    row = only(compare(first, other_ids))
    assert (row.test, row.reason) == ("two standard errors", "the per-example scores are of different examples")
    ids = [f"q{i}" for i in range(50)]
    no_mean = make(tmp_path, {"test/auc": (0.8, 0.01, "higher")}, examples={"test/auc": (ids, values)})
    row = only(compare(no_mean, no_mean))
    assert (row.test, row.verdict) == ("two standard errors", NOISE)
    assert "not the mean" in row.reason


def test_a_run_against_itself_is_within_noise(tmp_path):
    rng = np.random.default_rng(1)
    path = scored(tmp_path, {"a/x": rng.normal(size=30), "a/y": (rng.random(30) > 0.5) * 1.0})
    comparison = compare(path, path)
    assert [row.verdict for row in comparison.metrics] == [NOISE, NOISE]
    assert [row.p for row in comparison.metrics] == [1, 1]
    assert comparison.config == comparison.environment == comparison.data == []
    assert "same config" in comparison.notes[0]


def test_many_metrics_are_corrected(tmp_path):
    """p of .03 alone is a finding; among ten metrics it is not."""
    z = stats.norm.isf(0.015)
    one = {"test/m0": (0.1 * z, 0.1, "higher")}
    ten = one | {f"test/m{i}": (0.0, 0.1, "higher") for i in range(1, 10)}

    def zero(metrics):
        return make(tmp_path, dict.fromkeys(metrics, (0.0, 0.0, "higher")))

    assert only(compare(zero(one), make(tmp_path, one))).verdict == BETTER
    # the nine others have no standard error on the left only: still tested
    rows = compare(zero(ten), make(tmp_path, ten)).metrics
    assert rows[0].p == pytest.approx(0.03)
    assert rows[0].p_adjusted == pytest.approx(0.3)
    assert {row.verdict for row in rows} == {NOISE}


def simulated(rng, kind, columns, effect):
    """Two sets of per-example scores that share most of their noise; the first column of the second has an effect."""
    if kind == "scores":
        base = rng.normal(size=(columns, 120))
        pair = [base + 0.5 * rng.normal(size=base.shape) for _ in range(2)]
        pair[1][0] += effect
        return pair
    base = rng.random((columns, 120))  # how hard each question is: both sides get the easy ones right
    pair = [(base + 0.3 * rng.normal(size=base.shape) < 0.5).astype(float) for _ in range(2)]
    pair[1][0] = np.maximum(pair[1][0], rng.random(120) < effect)
    return pair


@pytest.mark.parametrize("kind", ["scores", "zero or one", "no examples"])
def test_false_alarms_over_a_thousand_pairs_of_runs_stay_within_the_level(kind, monkeypatch):
    """Five metrics of two runs that do not differ: a verdict that is not noise comes in at most 5% of comparisons."""
    rng = np.random.default_rng(2)
    alarms = sum(
        any(verdict != NOISE for verdict in verdicts(monkeypatch, kind, *simulated(rng, kind_of(kind), 5, 0.0)))
        for _ in range(1000)
    )
    assert alarms <= 50 + 3 * np.sqrt(1000 * 0.05 * 0.95)  # 5% and three standard deviations of that count
    if kind == "scores":  # exact tests of nearly independent metrics: far fewer would be an error as well
        assert alarms >= 50 - 3 * np.sqrt(1000 * 0.05 * 0.95)


def test_a_real_effect_is_found_as_often_as_theory_says(monkeypatch):
    """Among five metrics, one that differs: its power is that of the paired t at Holm's level, between 1% and 5%."""
    rng = np.random.default_rng(6)
    effect, n = 0.2, 120
    found = other = 0
    for _ in range(400):
        said = verdicts(monkeypatch, "scores", *simulated(rng, "scores", 5, effect))
        found += said[0] == BETTER
        other += any(verdict != NOISE for verdict in said[1:])
    shift = effect / np.sqrt(2 * 0.5**2 / n)
    power = [stats.nct.sf(stats.t.isf(level / 2, n - 1), n - 1, shift) for level in (0.01, 0.05)]
    spread = 3 * np.sqrt(0.25 / 400)
    assert power[0] - spread <= found / 400 <= power[1] + spread
    assert other <= 20 + 3 * np.sqrt(20)


def kind_of(kind):
    return "scores" if kind == "no examples" else kind


def verdicts(monkeypatch, kind, left, right):
    """What diff says of each column; files are left out, everything above them is the command's own."""
    sides, n = {}, left.shape[1]
    for name, columns in (("a", left), ("b", right)):
        metrics = {
            f"t/m{i}": {
                "value": row.mean(),
                "stderr": row.std(ddof=1) / len(row) ** 0.5,
                "n": len(row),
                "better": "higher",
            }
            for i, row in enumerate(columns)
        }
        parts = {key: {} for key in ("config", "data", "model", "protocol", "environment")}
        ids = np.arange(n).astype(str)
        examples = {} if kind == "no examples" else {f"t/m{i}": (ids, row) for i, row in enumerate(columns)}
        results = {"run": {"status": "ok"}, "metrics": metrics, **parts}
        sides[name] = Side(name, Path(name), results, examples, [])
    monkeypatch.setattr(diff, "open_side", lambda path: sides[path.name])
    return [row.verdict for row in compare(Path("a"), Path("b")).metrics]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_no_winner_across_data_or_protocols(tmp_path):
    metrics = {"val/loss": (4.0, 0.01, "lower")}
    first = make(tmp_path, {"val/loss": (5.0, 0.01, "lower")})
    row = only(compare(first, make(tmp_path, metrics, data="e" * 64)))
    assert row.verdict == REFUSED
    assert row.p is None
    assert "different data" in row.reason
    row = only(compare(first, make(tmp_path, metrics, protocol={"split": "val", "mask_seen": False})))
    assert row.verdict == REFUSED
    assert row.reason == "different protocol: mask_seen - against False"
    maps = [
        make(tmp_path, metrics, protocol={"calibrated_on": {"val": "calibration", "test": rows}})
        for rows in ("calibration", "all held out before it", "what the checkpoint has seen")
    ]
    assert compare(*maps[:2]).refused is None  # a ranker's own affair
    assert "calibrated_on.test" in compare(*maps[1:]).refused


def test_nats_per_token_of_different_tokenizers_do_not_compare_but_bits_per_byte_do(tmp_path):
    def run(value, name, **more):
        config = {"data": {"tokenizer": name, "vocab_size": 512}}
        metrics = dict.fromkeys(("val/loss", "val/bits_per_byte"), (value, 0.01, "lower"))
        return make(tmp_path, metrics, config=config, **more)

    loss, bits = compare(run(5.0, "bpe"), run(4.0, "bytes")).metrics
    assert (loss.verdict, bits.verdict) == (REFUSED, BETTER)
    assert "bits per byte" in loss.reason
    loss, bits = compare(run(5.0, "bpe", tokenizer="f1"), run(4.0, "bpe", tokenizer="f2")).metrics
    assert (loss.verdict, bits.verdict) == (REFUSED, BETTER)
    loss, _ = compare(run(5.0, "bpe"), run(4.0, "bpe")).metrics
    assert loss.verdict == BETTER


@pytest.mark.parametrize(
    ("left", "right", "reason"),
    [
        ((1.0, None, "lower"), (2.0, 0.1, "lower"), "no standard error in A"),
        ((1.0, None, "lower"), (2.0, None, "lower"), "no standard error in both"),
        ((1.0, 0.0, "lower"), (2.0, 0.0, "lower"), "both standard errors are 0"),
        ((np.nan, 0.1, "lower"), (2.0, 0.1, "lower"), "no finite value in A"),
        ((1.0, 0.1, "lower"), (2.0, 0.1, "higher"), "disagree on which direction"),
        ((1.0, 0.1, "lower"), None, "only A has it"),
        (None, (1.0, 0.1, "lower"), "only B has it"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path, left, right, reason):
    paths = [make(tmp_path, {"val/x": side} if side else {}) for side in (left, right)]
    row = only(compare(*paths))
    assert row.verdict == REFUSED
    assert reason in row.reason


@pytest.mark.parametrize("doubtful", [(True, False), (False, True)])
def test_what_is_not_to_be_believed_never_wins(tmp_path, doubtful):
    """Off-policy estimates of few effective requests: neither better nor worse, however far apart."""
    rng = np.random.default_rng(0)
    paths = []
    for side, doubt in enumerate(doubtful):
        run = Run.create(tmp_path, "eval", "x", argv=[], config={"seed": 1}, overrides=[])
        run.set_data("log", "d" * 64, {"test": 50})
        values = rng.normal(10 * side, 0.1, 50)
        more = {"unreliable": "its effective sample size is 2.0 of 50 requests"} if doubt else {}
        run.metric("test/policy/dr", values.mean(), stderr=0.01, n=50, better="higher", **more)
        run.add_examples("test/policy/dr", [str(i) for i in range(50)], values)
        run.finish("ok")
        paths.append(run.path)
    for pair in (paths, paths[::-1]):
        row = only(compare(*pair))
        assert (row.verdict, row.test) == (REFUSED, None)
        label = "A" if doubtful[paths.index(pair[0])] else "B"
        assert row.reason == f"in {label} its effective sample size is 2.0 of 50 requests"
        assert compare(*pair).regressions == []


def test_differences_of_the_runs_are_listed(tmp_path):
    first = make(tmp_path, {}, config={"model": {"norm": "rmsnorm", "heads": 4}, "trainer": {"lr": 1e-3}})
    second = make(tmp_path, {}, config={"model": {"norm": "layernorm", "heads": 4}, "seed": 2}, status="interrupted")
    comparison = compare(first, second)
    assert {(change.key, change.a, change.b, change.only) for change in comparison.config} == {
        ("model.norm", "rmsnorm", "layernorm", None),
        ("trainer.lr", 1e-3, None, "A"),
        ("seed", None, 2, "B"),
    }
    assert comparison.notes == ["B is interrupted: its numbers are not those of a whole run"]


# --- files that are not what they should be ---------------------------------------------------------------------------


def test_damaged_and_foreign_files_are_named(tmp_path):
    good = make(tmp_path, {"a/x": (1.0, 0.1, "lower")})
    torn, foreign = tmp_path / "torn.json", tmp_path / "foreign.json"
    torn.write_text((good / "results.json").read_text()[:300])
    foreign.write_text('{"results": {"arc_easy": {"acc,none": 0.4}}}')
    for path, words in (
        (torn, "is damaged at line"),
        (foreign, "is no results file of recsysml"),
        (tmp_path / "nothing", "does not exist"),
        (tmp_path, "no run directory"),
    ):
        for pair in ((good, path), (path, good)):
            with pytest.raises(ConfigError) as caught:
                compare(*pair)
            assert str(path) in str(caught.value)
            assert words in str(caught.value)
            assert "\n" not in str(caught.value)


def test_damaged_examples_are_named(tmp_path):
    good = scored(tmp_path, {"a/x": np.arange(5.0)})
    path = good / "examples.parquet"
    whole = path.read_bytes()
    doubled = pa.table({"metric": ["a/x"] * 2, "id": ["q", "q"], "value": [1.0, 3.0]})
    holes = pa.table({"metric": ["a/x"] * 2, "id": ["q", None], "value": [1.0, 3.0]})
    for content in (whole[:-20], b"", doubled, holes, pa.table({"metric": ["a/x"]})):
        path.write_bytes(content) if isinstance(content, bytes) else pq.write_table(content, path)
        with pytest.raises(ConfigError, match=r"examples\.parquet is damaged"):
            compare(good, good)


def test_a_sweep_stands_for_its_best_job_and_says_so(tmp_path):
    folder = tmp_path / "sweep" / "grid"
    best = make(folder, {"val/loss": (4.0, 0.1, "lower")})
    jobs = [{"path": None}, {"path": str(best.relative_to(folder))}]
    content = {"schema": "recsysml.sweep/1", "jobs": jobs, "best": {"metric": "val/loss", "job": 1}}
    (folder / "sweep.json").write_text(json.dumps(content))
    for path in (folder, folder / "sweep.json"):
        comparison = compare(path, best)
        assert comparison.a == str(best)
        assert "best of 2 jobs by val/loss" in comparison.notes[0]
    for broken, words in (({"best": None}, "no best job"), ({"jobs": []}, "does not say which job")):
        (folder / "sweep.json").write_text(json.dumps(content | broken))
        with pytest.raises(ConfigError, match=words):
            compare(folder, best)


# --- the command ------------------------------------------------------------------------------------------------------


def test_exit_codes_and_json(tmp_path, capsys):
    low = make(tmp_path, {"val/loss": (4.0, 0.01, "lower")}, config={"x": float("inf")})
    high = make(tmp_path, {"val/loss": (5.0, 0.01, "lower")})
    assert main(str(low), str(high)) == 0
    assert main(str(low), str(high), fail_on_regression=True) == 3
    assert main(str(high), str(low), fail_on_regression=True) == 0
    capsys.readouterr()
    assert main(str(low), str(high), as_json=True, fail_on_regression=True) == 3
    parsed = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert parsed["schema"] == "recsysml.diff/1"
    assert parsed["regressions"] == ["val/loss"]
    assert parsed["metrics"][0]["verdict"] == "worse"
    assert parsed["metrics"][0]["effect"] == pytest.approx(1.0)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_goes_away_does_not_hide_a_regression(tmp_path, more):
    low = make(tmp_path, {"val/loss": (4.0, 0.01, "lower")})
    high = make(tmp_path, {"val/loss": (5.0, 0.01, "lower")})
    for pair, code in (((low, high), 3), ((high, low), 0)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "recsysml", "diff", *map(str, pair), "--fail-on-regression", *more]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (code, "")


def test_what_no_metric_can_be_compared_for_is_said_once(tmp_path):
    metrics = {f"val/m{number}": (4.0, 0.01, "lower") for number in range(30)}
    first, second = make(tmp_path, metrics), make(tmp_path, {**metrics, "val/own": (1.0, 0.1, "lower")}, data="e" * 64)
    found = compare(first, second)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    render(found, console)
    text = console.export_text()
    assert text.count("different data") == 1 and "val/m" not in text and "the values of all 31" in text
    assert "fingerprint" in text  # what differs is told all the same
    plain = found.to_json()
    assert plain["refused"] == found.metrics[0].reason and plain["metrics"][3]["a"] == 4.0
    assert compare(first, first).refused is None


def test_the_table_says_it_all(tmp_path):
    first = make(tmp_path, {"val/[b]loss": (4.0, 0.01, "lower")}, config={"lr": 1})
    second = make(tmp_path, {"val/[b]loss": (5.0, 0.01, "lower")}, config={"lr": 2})
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    render(compare(first, second), console)
    text = console.export_text()
    for words in ("val/[b]loss", "worse", "+1", "two standard errors", "config", "lr", str(second)):
        assert words in text


def test_the_command_needs_no_torch(tmp_path):
    rng = np.random.default_rng(3)
    paths = [scored(tmp_path, {"t/m": rng.normal(size=100)}) for _ in range(2)]
    code = f"""
import sys
from recsysml.diff import main
main({str(paths[0])!r}, {str(paths[1])!r})
assert not {{"torch", "pandas", "scipy.stats", "lm_eval"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
