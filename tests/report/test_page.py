"""The report as a reader gets it: parsed, drawn without a browser, and opened in one where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import vl_convert

from recsysml import sections
from recsysml.errors import ConfigError
from recsysml.report import write_report
from recsysml.report.charts import PALETTE, merged, section_reliability
from recsysml.report.gather import ReportedRun, gather
from recsysml.report.page import render
from recsysml.results import Run

EVIL = "<script>window.broken = 1; console.error('injected')</script>\"'&{{ 7 * 7 }}</script><b>"
BROWSERS = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
BROWSER = next(filter(None, BROWSERS), None)


@pytest.fixture(autouse=True)
def quick_environment(monkeypatch):
    monkeypatch.setattr("recsysml.results.environment", lambda: {"python": "3", "cpu": EVIL})


def make(root, seed, *, status="ok", steps=300):
    """A run that has everything a report shows, with markup in every text."""
    rng = np.random.default_rng(seed)
    config = {
        "seed": seed,
        "note": EVIL,
        EVIL: 1,
        "model": {"kind": "gpt", "context_length": 256},
        "trainer": {"batch_size": 8},
    }
    run = Run.create(root, "train", f"m{seed}", argv=[EVIL], config=config, overrides=[])
    run.set_data(EVIL, "d" * 64, {"train": 10})
    run.set_model(EVIL, "gpt", 1_500_000, 1)
    run.set_protocol(split="val")
    for step in range(steps):
        run.log(step, {"train/loss": 5 - step / steps + rng.random(), "lr": 1e-3, "tokens_per_second": 3000 + seed})
        if step % 100 == 0:
            run.log(step, {"val/loss": 5 - step / steps})
            run.sample(step, {"prompt": "", "text": EVIL})
    run.sample(steps, {"user": 3, "items": [EVIL]})
    for task in ("arc_easy", "piqa", EVIL.replace("/", "")):
        values = (rng.random(200) < 0.5).astype(float)
        ids = [str(i) for i in range(200)]
        run.metric(f"lm/{task}/acc", values.mean(), stderr=0.035, n=200, better="higher", baseline=0.25)
        run.add_examples(f"lm/{task}/acc", ids, values)
    run.metric(EVIL, 4 + seed / 10, stderr=0.02, n=9, better="lower", baseline=6.0, baselines={EVIL: 5.0})
    bins = [{"predicted": p, "observed": p * 0.9, "count": 10, "low": p * 0.8, "high": p} for p in (0.1, 0.5, 0.9)]
    parts = [
        sections.table(EVIL, ["item", EVIL], [[EVIL, 1.5], [None, True]]),
        sections.curves("c", EVIL, "y", {EVIL: ([1, 10, 100], [0.1, 0.2, 0.3]), "b": ([1, 2], [3, 4])}, log_x=True),
        sections.bars("b", "value", [{"label": EVIL, "value": 1.0, "low": 0.9, "high": 1.1, "baseline": 0.5}]),
        sections.reliability("r", bins),
    ]
    run.section("calibration", EVIL, parts, note=EVIL)
    run.finish(status, EVIL if status == "failed" else None)
    return run.path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two runs, one failed, and its file."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsysml.results.environment", lambda: {"python": "3", "cpu": EVIL})
        for seed in (1, 2):
            make(root / "train", seed, status="ok" if seed == 1 else "failed")
    path, count = write_report([str(root)])
    assert (path, count) == (root / "report.html", 2)
    return path


class Page(HTMLParser):
    """Tags, attributes that lead somewhere, and the texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.charts: list[dict] = []
        self._open: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        assert not [key for key in named if key.startswith("on")], named
        self.addresses += [value for key, value in attributes if key in ("src", "href", "action", "data", "poster")]
        self._open.append((tag, named))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, attributes = self._open[-1] if self._open else ("", {})
        self.texts.setdefault(tag, []).append(data)
        if "data-chart" in attributes:
            self.charts.append(json.loads(data))


def test_nothing_in_the_file_leads_outside_and_no_text_becomes_markup(page):
    parsed = Page(page.read_text())
    assert {address[:1] for address in parsed.addresses} == {"#"}
    assert parsed.tags.count("script") == len(parsed.charts) + 2  # each chart's data, the library, the page's own
    assert "b" not in parsed.tags
    assert "link" not in parsed.tags
    assert EVIL in parsed.texts["pre"][0]
    for tag in ("td", "th", "h2", "h3", "p"):
        assert EVIL in "".join(parsed.texts[tag]), tag
    assert "{{ 7 * 7 }}" in page.read_text()  # text from data is no template
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.read_text())
    assert policy and policy[1].startswith("default-src 'none'")


def test_every_chart_is_drawn_with_all_runs(page):
    parsed = Page(page.read_text())
    titles = "".join(parsed.texts["h3"])
    for title in ("loss", "learning rate", "tokens per second", "acc"):
        assert title in titles
    assert len(parsed.charts) == 3 + 1 + 1 + 3  # curves, tasks, the one other metric, the section's
    for chart in parsed.charts:
        assert len({row["run"] for row in chart["datasets"]["rows"]}) == 2
        svg = vl_convert.vegalite_to_svg(chart | {"width": 400}, vl_version="6.1")
        assert svg.count("<path") > 4
        assert "NaN" not in svg


def test_what_the_tables_say(page):
    cells = "".join(Page(page.read_text()).texts["td"])
    for words in ("1.5M", "failed", "worse", "within noise", "trainer.batch_size"):
        assert words in cells, words
    assert "within noise of chance" not in cells
    small = "".join(Page(page.read_text()).texts["small"])
    assert "exact McNemar" in small


def test_a_single_run_and_one_without_anything(tmp_path):
    path = Run.create(tmp_path, "train", "x", argv=[], config={}, overrides=[]).path
    text = render(gather([str(path)]))
    parsed = Page(text)
    assert parsed.charts == []
    assert "running" in "".join(parsed.texts["td"])
    assert "1 run" in parsed.texts["h1"]


def test_a_simple_method_that_gets_nothing_is_drawn_at_0(tmp_path):
    run = Run.create(tmp_path, "eval", "x", argv=[], config={}, overrides=[])
    run.metric("test/em", 0.2, stderr=0.1, n=9, better="higher", baseline=0.0, baselines={"random": 0.1, "none": None})
    run.finish("ok")
    (chart,) = Page(render(gather([str(run.path)]))).charts
    drawn = {row["name"]: row["value"] for row in chart["datasets"]["baselines"]}
    assert drawn == {"simplest method": 0.0, "random": 0.1}


def test_bars_of_one_title_and_two_units_are_two_charts_and_never_one_sum(tmp_path):
    paths = []
    for labels in (["1", "2", "4"], ["0", "1", "3", "4"]):
        run = Run.create(tmp_path, "eval", "x", argv=[], config={"n": len(paths)}, overrides=[])
        parts = [
            sections.bars("by decile", unit, [{"label": label, "value": value} for label in labels])
            for unit, value in (("recall", 0.25), ("ndcg", 0.125))
        ]
        run.section("retrieval", "Retrieval", [*parts, parts[0]])
        run.finish("ok")
        paths.append(str(run.path))
    recall, ndcg = Page(render(gather(paths))).charts
    for chart, value in ((recall, 0.25), (ndcg, 0.125)):
        assert {row["value"] for row in chart["datasets"]["rows"]} == {value}
        bar = chart["layer"][0]["encoding"]
        assert bar["x"]["sort"] == ["0", "1", "2", "3", "4"]
        tops = drawn_tops(chart)
        assert max(tops) - min(tops) < 1e-6  # the part that a run wrote twice is not added up


def test_what_a_run_says_of_its_section_is_said_of_no_other(tmp_path):
    paths = []
    for note in ("ECE 0.25", "ECE 0.75"):
        run = Run.create(tmp_path, "eval", "x", argv=[], config={}, overrides=[])
        run.section("calibration", "Calibration", [sections.table("t", ["a"], [[1]])], note=note)
        run.section("other", "Other", [sections.table("t", ["a"], [[1]])], note="What it is.")
        run.finish("ok")
        paths.append(str(run.path))
    runs = gather(paths)
    page = Page(render(runs))
    for run in runs:
        said = page.texts["td"][page.texts["td"].index(run.sections["calibration"]["note"]) - 1]
        assert said == run.label
    assert "ECE" not in "".join(page.texts["p"])
    assert page.texts["p"].count("What it is.") == 1
    assert "ECE 0.25" in Page(render(runs[:1])).texts["p"] or "ECE 0.75" in Page(render(runs[:1])).texts["p"]


def drawn_tops(chart):
    """Where the bars of a chart end, in pixels from the top."""
    svg = vl_convert.vegalite_to_svg(chart | {"width": 400}, vl_version="6.1")
    paths = re.findall(r'aria-roledescription="bar" d="M[\d.]+,([\d.]+)', svg)
    assert paths
    return [float(top) for top in paths]


def test_labels_of_several_runs_are_merged_in_their_order():
    assert merged([["a", "c"], ["a", "b", "c", "d"], ["0", "a", "d", "e"]]) == ["0", "a", "b", "c", "d", "e"]
    assert merged([["2", "10"], ["1", "3", "10", "1"]]) == ["1", "2", "3", "10"]


@pytest.mark.parametrize(
    ("top", "end"), [(0.0034, 0.004), (0.06, 0.06), (0.1, 0.1), (0.13, 0.15), (0.65, 0.8), (1.0, 1)]
)
def test_small_shares_fill_their_diagram(top, end):
    row = {"run": "a", "curve": "", "predicted": top / 2, "observed": top, "count": 3, "low": None, "high": None}
    chart = section_reliability({"bins": [row]}, ["a"])
    assert chart["layer"][2]["encoding"]["y"]["scale"]["domain"] == pytest.approx([0, end])


def test_evals_are_compared_with_each_other_and_say_whom_they_judged(tmp_path):
    """Two trainings, their evals by two protocols: each pair among itself, since others have no winner."""
    rng = np.random.default_rng(1)
    kinds = (("train", "a", "val/loss"), ("eval", "b", "lm/t/acc"), ("eval", "b", "lm/t/acc_norm"))
    for kind, data, metric in kinds:
        for i in range(2):
            parents = [f"20260101-000000-gpt-abc{i}"] if kind == "eval" else []
            run = Run.create(tmp_path, kind, "x", argv=[], config={}, overrides=[], parents=parents)
            run.set_data(data, data * 64, {})
            run.set_protocol(split=metric)
            values = (rng.random(300) < 0.2 + 0.6 * i) * 1.0
            run.metric(metric, values.mean(), stderr=0.03, n=300, better="higher")
            run.add_examples(metric, [str(k) for k in range(300)], values)
            run.finish("ok")
    runs = gather([str(tmp_path)])
    assert [run.label.partition(" ")[2] for run in runs if run.results["run"]["command"] == "eval"] == [
        *["of abc0", "of abc1"] * 2,
    ]
    page = Page(render(runs))
    assert "".join(page.texts["td"]).count("better") == 3
    assert "not compared" not in "".join(page.texts["div"])
    assert {f"Against {runs[i].label}" for i in (0, 2, 4)} <= set(page.texts["h3"])


def test_what_could_not_be_compared_is_said_once(tmp_path):
    for i in range(3):
        run = Run.create(tmp_path, "eval", "x", argv=[], config={"n": i}, overrides=[])
        run.set_data("d", "d" * 64, {})
        for name in ("test/a", "test/b"):
            run.metric(name, float(i), stderr=None, n=9, better="higher")
        run.finish("ok")
    runs = gather([str(tmp_path)])
    (said,) = [text for text in Page(render(runs)).texts["div"] if "not compared" in text]
    assert said.startswith(f"not compared: {runs[1].label} (2 metrics), {runs[2].label} (2 metrics): no standard error")


def test_what_was_measured_on_the_test_split_is_drawn_first(tmp_path):
    run = Run.create(tmp_path, "train", "x", argv=[], config={}, overrides=[])
    for split in ("val", "test"):
        for i in range(12):
            run.metric(f"{split}/m{i}", 0.5, stderr=0.1, n=9, better="higher", baseline=0.25, baselines={"ease": 0.4})
    run.finish("ok")
    page = Page(render(gather([str(run.path)])))
    titles = [title for title in page.texts["h3"] if "/m" in title]
    assert titles == [f"test/m{i}" for i in range(12)] + [f"val/m{i}" for i in range(6)]
    assert "18 of 24 are drawn; the table has all." in "".join(page.texts["p"])
    assert "simplest method 0.25, ease 0.4" in page.texts["div"]


def test_ten_long_runs_stay_under_five_megabytes(tmp_path):
    """With all that has no bound of its own: curves, samples and pictures."""
    (tmp_path / "plots").mkdir()
    names_of_pictures = [f"plots/{i}.png" for i in range(20)]
    for name in names_of_pictures:
        (tmp_path / name).write_bytes(bytes(140_000))
    rng = np.random.default_rng(1)
    names = ["train/loss", "val/loss", "val/bits_per_byte", "lr", "tokens_per_second", "grad_norm", "train/a", "b"]
    parts = {part: {} for part in ("config", "data", "model", "protocol", "environment", "throughput", "artifacts")}
    run = {"id": "x", "command": "train", "status": "ok", "started": "2026-01-01T00:00:00Z", "seconds": 9.0}
    rows = [{"step": s, "seconds": s / 7, **dict(zip(names, rng.random(8), strict=True))} for s in range(20_000)]
    samples = [{"step": s, "prompt": "", "text": "abcdefg " * 1000} for s in range(40)]
    # one run against nothing: files to compare there are none
    results = {"run": run, "metrics": {}, **parts, "artifacts": {"plots": names_of_pictures}}
    runs = [ReportedRun(f"gpt2_modern-{i} d_model=128 seed=1", tmp_path, results, rows, samples, {}) for i in range(10)]
    page = render(runs)
    assert page.count("data:image/png") == 7
    assert "193 more are too large for this file" in page
    assert len(page) < 5_000_000


def test_a_damaged_section_costs_a_warning_and_a_missing_run_an_error(tmp_path, caplog):
    path = make(tmp_path, 3, steps=5)
    (path / "sections" / "calibration.json").write_text("{")
    (found,) = gather([str(path)])
    assert found.sections == {}
    assert "calibration.json is damaged at line 1" in caplog.text
    for name, words in ((str(tmp_path / "nothing"), "no run and no folder"), (str(path / "sections"), "no run in it")):
        with pytest.raises(ConfigError, match=words):
            gather([name])
    (path / "results.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged at line 1"):
        gather([str(path)])


@pytest.mark.parametrize(
    ("name", "garbage", "bad"),
    [("metrics.jsonl", b"\xff\x00garbage\n" + b"[" * 100_000 + b"\n", 2), ("samples.jsonl", b"torn", 1)],
)
def test_damaged_rows_cost_a_warning_that_names_the_file_and_the_others_are_shown(tmp_path, caplog, name, garbage, bad):
    path = make(tmp_path, 3, steps=4)
    (whole,) = gather([str(path)])
    assert not caplog.records
    lines = (path / name).read_bytes().splitlines(keepends=True)
    (path / name).write_bytes(b"".join([*lines, garbage]))
    (found,) = gather([str(path)])
    (record,) = caplog.records
    said = f"{path / name}: {bad} of {len(lines) + bad} lines are damaged and left out, first line {len(lines) + 1}"
    assert record.getMessage() == said
    assert (found.rows, found.samples) == (whole.rows, whole.samples)
    (path / name).write_bytes(b"garbage")
    render(gather([str(path)]))


def test_a_time_that_is_none_is_not_drawn(tmp_path):
    path = make(tmp_path, 3, steps=4)
    (path / "metrics.jsonl").write_text('{"step": 1, "seconds": "soon", "x": 1}\n' * 2)
    assert ">Curves<" in render(gather([str(path)]))


def test_runs_are_found_by_folder_id_and_sweep_and_each_once(own_outputs):
    first = make(own_outputs / "sweep" / "grid", 4, steps=3)
    second = make(own_outputs, 5, steps=3)
    (own_outputs / "sweep" / "grid" / "sweep.json").write_text("{}")
    names = [str(own_outputs), second.name, str(own_outputs / "sweep" / "grid" / "sweep.json"), f"{first}/results.json"]
    assert [run.path.name for run in gather(names)] == [first.name, second.name]
    assert [run.path.name for run in gather([second.name])] == [second.name]
    with pytest.raises(ConfigError, match=f"nearest: .*{second.name}"):
        gather([second.name[:-1] + "x"])


def test_a_label_says_what_is_a_runs_own(tmp_path):
    def labels(*configs):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for config in configs:
            Run.create(folder, "train", "gpt2", argv=[], config=config, overrides=[]).finish("ok")
        return [run.label for run in gather([str(folder)])]

    small, large = ({"seed": 1, "model": {"d_model": d}, "tracker": {"mode": str(d)}} for d in (32, 64))
    assert {label.partition(" ")[2] for label in labels(small, large)} == {"d_model=32", "d_model=64"}
    assert [label.partition(" ")[2] for label in labels(small, small)] == ["", ""]
    many = {f"key{i}": 1 for i in range(9)}
    assert [label.partition(" ")[2] for label in labels(small, many)] == ["", ""]


def test_a_section_outside_of_its_run_is_not_read(tmp_path, caplog):
    path = make(tmp_path, 6, steps=3)
    results = json.loads((path / "results.json").read_text())
    results["artifacts"]["sections"] = ["../secret.json"]
    (path / "results.json").write_text(json.dumps(results))
    sections.write(tmp_path / "train" / "secret.json", "secret", [])
    assert gather([str(path)])[0].sections == {}
    assert "outside of its run" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH: the report was not opened in a browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_it_without_errors_and_asks_nobody(page, tmp_path, scheme):
    picture, log = tmp_path / "page.png", tmp_path / "net.json"
    style = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    done = browse(page, tmp_path, style, f"--log-net-log={log}", f"--screenshot={picture}", "--window-size=1280,3000")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    asked = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # the browser's own requests come from no page; a page that lies in a file has the origin null
    assert not [request for request in asked if request.get("initiator") == "null"]
    pixels = _pixels(picture)
    assert (pixels[:40, :40].mean() < 60) == (scheme == "dark")
    colourful = np.ptp(pixels.astype(int), axis=-1) > 60
    assert colourful.sum() > 3000  # lines, points and bars


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH: the report was not opened in a browser")
def test_a_reader_chooses_runs_and_the_axis(page, tmp_path):
    """The first run is switched off and tokens are chosen: its colour leaves the charts, the axis reads in tokens."""
    copy = tmp_path / "page.html"
    change = """<script>setTimeout(() => {
        document.querySelector("#chosen input").click();
        document.querySelector("#axes input[value=tokens]").click();
    }, 2000)</script>"""
    before = browse(page, tmp_path, "--dump-dom").stdout
    copy.write_text(page.read_text() + change)
    after = browse(copy, tmp_path, "--dump-dom").stdout

    def drawn(text, colour):
        return len(re.findall(f'(?:stroke|fill)="{colour}"', text))

    assert drawn(before, PALETTE[0]) > 5
    assert drawn(after, PALETTE[0]) == 0
    assert drawn(after, PALETTE[1]) == drawn(before, PALETTE[1]) > 5
    last = f"{300 * 8 * 256 // 100_000 * 100}k"  # 300 steps of 8 windows of 256 tokens: 614k
    assert f">{last}</text>" not in before
    assert f">{last}</text>" in after


def browse(page, folder, *more):
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *quiet),
        *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=8000", *more, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def _pixels(path):
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_what_was_measured_on_test_stands_above_what_was_chosen_on(tmp_path):
    run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
    for split in ("val", "test"):
        run.metric(f"{split}/ne", 0.9, stderr=0.1, n=5, better="lower")
        run.section(f"calibration_{split}", f"Calibration, {split}", [sections.table("t", ["a"], [["b"]])])
    run.finish("ok")
    page = Page(render(gather([str(run.path)])))
    titles = page.texts["h2"]
    assert titles.index("Calibration, test") < titles.index("Calibration, val")
    cells = page.texts["td"]
    assert cells.index("test/ne") < cells.index("val/ne")
