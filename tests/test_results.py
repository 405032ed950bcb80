"""The record of a run: unique directories, strict files, crashes, full disks, resuming."""

import hashlib
import json
import logging
import math
import multiprocessing
import re
import subprocess
import sys
import textwrap
import warnings
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from recsysml import environment as environments
from recsysml.environment import config_hash, git_state, package_versions
from recsysml.errors import ConfigError, JobError
from recsysml.results import Run, _new_directory
from recsysml.rows import read_rows

CONFIG = {"seed": 1, "model": {"kind": "gpt", "size": "nano"}, "trainer": {"lr": 1e-3, "log_every": 1}}


def start(root, **changes):
    given = {"argv": ["train", "seed=1"], "config": CONFIG, "overrides": ["seed=1"]} | changes
    return Run.create(root, "train", "gpt2_modern", **given)


def results(run):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads((run.path / "results.json").read_text(), parse_constant=refuse)


def test_a_run_from_start_to_end(tmp_path):
    run = start(tmp_path, parents=["a-run"])
    assert re.fullmatch(r"\d{8}-\d{6}-gpt2_modern-[0-9a-f]{4}", run.path.name)
    assert run.path.parent == tmp_path / "train"
    assert results(run)["run"]["status"] == "running"
    run.log(0, {"val/loss": 5.0})
    run.log(1, {"train/loss": np.float32(4.5), "lr": 1e-3})
    run.sample(1, {"text": "Ein Wörtchen\n"})
    run.set_data("python_docs", "f" * 64, {"train": 10, "val": 2})
    run.set_model("gpt2_modern", "gpt", 100, 90)
    run.set_protocol(split="val")
    run.set_protocol(mask_seen=True)
    run.set_throughput("tokens/s", 12.5, 300, 1024, mfu=0.25)
    run.set_environment({"device": "cpu", "threads": 2})
    run.metric("val/loss", 4.25, stderr=0.1, n=4, better="lower", baseline=6.0, baselines={"gzip": 5.0})
    run.artifact("checkpoint", "checkpoints/best")
    run.artifact("plots", "plots/loss.png")
    run.finish("ok")

    record = results(run)
    assert record["schema"] == "recsysml.results/1"
    assert record["run"] | {"started": "", "seconds": 0} == {
        "id": run.path.name,
        "command": "train",
        "argv": ["train", "seed=1"],
        "status": "ok",
        "error": None,
        "started": "",
        "seconds": 0,
        "parents": ["a-run"],
        "sweep": None,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["run"]["started"])
    assert record["config"] == CONFIG
    assert record["protocol"] == {"split": "val", "mask_seen": True}
    entry = {"value": 4.25, "stderr": 0.1, "n": 4, "better": "lower", "baseline": 6.0, "baselines": {"gzip": 5.0}}
    assert record["metrics"] == {"val/loss": entry}
    throughput = {"unit": "tokens/s", "value": 12.5, "steps": 300, "peak_memory_bytes": 1024, "mfu": 0.25}
    assert record["throughput"] == throughput
    assert record["environment"]["device"] == "cpu"
    assert record["environment"]["packages"]["numpy"] == np.__version__
    assert record["artifacts"] == {"checkpoint": "checkpoints/best", "plots": ["plots/loss.png"]}
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG
    assert yaml.safe_load((run.path / "overrides.yaml").read_text()) == ["seed=1"]
    rows = read_rows(run.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[1]["train/loss"] == 4.5
    assert rows[1]["seconds"] >= rows[0]["seconds"] >= 0
    assert read_rows(run.path / "samples.jsonl") == [{"step": 1, "text": "Ein Wörtchen\n"}]


def test_a_job_of_a_sweep_lies_in_the_sweeps_folder(tmp_path):
    run = start(tmp_path, sweep="grid")
    run.finish("ok")
    assert run.path.parent == tmp_path / "sweep" / "grid"
    assert results(run)["run"]["sweep"] == "grid"


def test_what_is_not_finite_becomes_null_and_is_said(tmp_path, capfd):
    run = start(tmp_path, config={"trainer": {"grad_clip": math.inf}})
    run.log(3, {"train/loss": math.nan, "lr": np.float32(np.inf)})
    run.metric("val/loss", math.nan, stderr=math.inf, n=1, better="lower")
    run.finish("ok")
    assert read_rows(run.path / "metrics.jsonl")[0] | {"seconds": 0} == {
        "step": 3,
        "seconds": 0,
        "train/loss": None,
        "lr": None,
    }
    entry = results(run)["metrics"]["val/loss"]
    assert entry["value"] is None
    assert entry["stderr"] is None
    assert entry["error"] == "the value was nan"
    assert "warning: val/loss: the value was nan" in capfd.readouterr().err
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {"trainer": {"grad_clip": math.inf}}


def test_rows_are_on_disk_when_log_returns(tmp_path):
    run = start(tmp_path)
    run.log(1, {"train/loss": 1.0})
    assert (run.path / "metrics.jsonl").read_text().endswith("\n")  # before any close or flush of ours
    run.finish("ok")


def make(folder):
    return [str(start(folder).path) for _ in range(8)]


def test_parallel_starts_never_share_a_directory(tmp_path, monkeypatch):
    """Four processes, 32 starts and 64 names a second, enough even if all start in one: draws must collide."""
    monkeypatch.setattr("recsysml.results.secrets.token_hex", lambda n: f"{np.random.default_rng().integers(64):04x}")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = [path for some in pool.map(make, [tmp_path] * 4) for path in some]
    assert len(set(paths)) == 32
    assert len(list((tmp_path / "train").iterdir())) == 32


def test_a_name_that_is_taken_is_drawn_anew(tmp_path, monkeypatch):
    """The same for one process, where no accident of the clock decides."""
    names = iter(["0001", "0001", "0001", "0002"])
    monkeypatch.setattr("recsysml.results.secrets.token_hex", lambda n: next(names))
    now = datetime.now(UTC)
    assert [_new_directory(tmp_path, now, "x").name[-4:] for _ in range(2)] == ["0001", "0002"]


def test_labels_cannot_leave_the_folder(tmp_path):
    run = Run.create(tmp_path, "train", "../my model/x", argv=[], config={}, overrides=[])
    run.finish("ok")
    assert run.path.parent == tmp_path / "train"
    assert "my_model_x" in run.id


def test_outputs_that_cannot_be_written_are_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        start(tmp_path / "file")


# --- the hash of a config ---------------------------------------------------------------------------------------------


def test_hash_is_the_sha256_of_its_documented_text():
    text = '{"config":{"a":1},"packages":{"torch":"2"}}'
    assert config_hash({"a": 1}, {"torch": "2"}) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": "elsewhere"},
        {"tracker": {"mode": "disabled"}},
        {"progress": "never"},
        {"sweep": {"name": "x"}},
        {"checkpoint": "last"},
        {"trainer": {"lr": 1e-3, "log_every": 10}},
    ],
)
def test_hash_leaves_out_what_changes_no_number(change):
    assert config_hash(CONFIG | change, {}) == config_hash(CONFIG, {})


def test_hash_sees_everything_else():
    base = config_hash(CONFIG, {"torch": "1"})
    assert config_hash(CONFIG, {"torch": "2"}) != base
    assert config_hash(CONFIG | {"seed": 2}, {"torch": "1"}) != base
    assert config_hash(CONFIG | {"trainer": {"lr": 2e-3, "log_every": 1}}, {"torch": "1"}) != base
    assert config_hash(CONFIG | {"threads": 1}, {"torch": "1"}) != base
    assert config_hash(CONFIG | {"checkpoint": "a"}, {}, "eval") != config_hash(
        CONFIG | {"checkpoint": "b"}, {}, "eval"
    )
    assert config_hash(dict(reversed(CONFIG.items())), {"torch": "1"}) == base


def test_packages_are_those_installed():
    versions = package_versions()
    assert versions["numpy"] == np.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "wandb" not in versions  # a new tracker changes no number


def test_the_record_loads_no_torch(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from recsysml.results import Run
        run = Run.create(Path(sys.argv[1]), "train", "x", argv=[], config={}, overrides=[])
        run.log(1, {"a": 1.0})
        run.finish("ok")
        print([name for name in ("torch", "wandb", "matplotlib", "pyarrow") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_git_state(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git("init", "-q")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "code.py").write_text("1")
    (tmp_path / ".gitignore").write_text("venv")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path)["dirty"] is True
    assert git_state(tmp_path / "venv") == {"commit": None, "dirty": None}  # installed into someone's repository


# --- run.log ----------------------------------------------------------------------------------------------------------


def test_log_file_has_times_and_tracebacks_and_the_screen_plain_lines(tmp_path, capfd):
    run = start(tmp_path)
    run.say("hello [b]")
    try:
        raise KeyError("deep")
    except KeyError:
        logging.getLogger("recsysml").exception("it broke")
    warnings.warn("mind the gap", stacklevel=1)
    run.finish("failed", "it broke")
    logging.getLogger("recsysml").info("after the end")
    log = (run.path / "run.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO hello \[b\]$", log, re.M)
    assert "Traceback" in log
    assert "KeyError: 'deep'" in log
    assert "UserWarning: mind the gap" in log
    assert "after the end" not in log
    screen = capfd.readouterr().err
    assert screen.splitlines() == ["hello [b]", "error: it broke", "warning: mind the gap", "after the end"]


def test_runs_in_one_process_keep_their_own_logs(tmp_path):
    first = start(tmp_path)
    first.say("one")
    first.finish("ok")
    second = start(tmp_path)
    second.say("two")
    second.finish("ok")
    assert "two" not in (first.path / "run.log").read_text()
    assert "one" not in (second.path / "run.log").read_text()


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_resume_drops_later_rows_and_a_torn_line_and_changes_no_other_byte(tmp_path):
    run = start(tmp_path)
    for step in range(6):
        run.log(step, {"train/loss": 1 / (step + 3)})
        run.sample(step, {"text": "x"})
    lines = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "train/lo')  # the process died here

    again = Run.reopen(run.path)
    assert again.id == run.id
    assert results(again)["run"]["status"] == "running"
    assert (run.path / "metrics.jsonl").read_bytes() == b"".join(lines)
    again.drop_metrics_after(3)
    assert (run.path / "metrics.jsonl").read_bytes() == b"".join(lines[:4])
    assert [row["step"] for row in read_rows(run.path / "samples.jsonl")] == [0, 1, 2, 3]
    again.log(4, {"train/loss": 0.5})
    again.finish("ok")
    assert [row["step"] for row in read_rows(run.path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert results(again)["run"]["started"] == results(run)["run"]["started"]


def test_seconds_accumulate(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("recsysml.results.time.monotonic", lambda: clock[0])
    run = start(tmp_path)
    clock[0] = 130.0
    run.log(1, {})
    clock[0] = 500.0  # killed; nothing was saved after the row
    again = Run.reopen(run.path)
    clock[0] = 510.0
    again.log(2, {})
    again.finish("ok")
    assert [row["seconds"] for row in read_rows(run.path / "metrics.jsonl")] == [30, 40]
    assert results(again)["run"]["seconds"] == 40


def test_reopening_what_is_no_run_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"results\.json"):
        Run.reopen(tmp_path)


def test_a_run_at_work_in_another_process_cannot_be_reopened(tmp_path):
    run = start(tmp_path)
    code = f"""
        from pathlib import Path
        from recsysml.results import Run
        from recsysml.errors import ConfigError
        try:
            Run.reopen(Path({str(run.path)!r}))
        except ConfigError as error:
            print(error)
    """
    other = [sys.executable, "-c", textwrap.dedent(code)]
    assert "still being written" in subprocess.run(other, capture_output=True, text=True).stdout
    run.finish("interrupted")
    assert subprocess.run(other, capture_output=True, text=True, check=True).stdout == ""


# --- disks ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_one_line_and_no_row(tmp_path):
    """A file size limit makes the system itself refuse in the middle of a line, as a full disk does."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        from recsysml.errors import JobError
        from recsysml.results import Run
        run = Run.create(Path(sys.argv[1]), "train", "x", argv=[], config={}, overrides=[])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            for step in range(1000):
                run.log(step, {"train/loss": 1 / 3})
        except JobError as error:
            print(error)
            run.finish("failed", str(error))
        print(step)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, step = done.stdout.splitlines()
    (path,) = (tmp_path / "train").iterdir()
    assert error.startswith(str(path / "metrics.jsonl"))
    assert "File too large" in error
    content = (path / "metrics.jsonl").read_bytes()
    assert len(content) > 2900
    assert content.endswith(b"}\n")  # the part of a line that fitted was taken back
    assert [row["step"] for row in read_rows(path / "metrics.jsonl")] == list(range(int(step)))
    json.loads((path / "results.json").read_text())
    assert "Traceback" not in done.stderr


def test_examples_come_back(tmp_path):
    run = start(tmp_path)
    run.add_examples("val/loss", ["a", "b"], np.array([1.0, 2.0]))
    run.add_examples("val/acc", ["b"], np.array([1]))
    run.finish("ok")
    assert pq.read_table(run.path / "examples.parquet").to_pylist() == [
        {"metric": "val/loss", "id": "a", "value": 1.0},
        {"metric": "val/loss", "id": "b", "value": 2.0},
        {"metric": "val/acc", "id": "b", "value": 1.0},
    ]
    assert results(run)["artifacts"]["examples"] == "examples.parquet"


def test_examples_that_cannot_be_written_do_not_cost_the_run(tmp_path, capfd):
    run = start(tmp_path)
    run.add_examples("val/loss", ["a"], np.array([1.0]))
    run.metric("val/loss", 1.0, stderr=None, n=1, better="lower")
    (run.path / "examples.parquet").mkdir()  # a real refusal of the system, also for root
    run.finish("ok")
    record = results(run)
    assert record["run"]["status"] == "ok"
    assert record["metrics"]["val/loss"]["value"] == 1.0
    assert "examples" not in record["artifacts"]
    assert "examples.parquet could not be written" in record["run"]["warnings"][0]
    assert "diff will not pair" in capfd.readouterr().err
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []


def test_a_record_that_cannot_be_written_fails_an_ok_run_and_hides_no_other_error(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    for status in ("ok", "failed"):
        run = start(tmp_path)
        before = (run.path / "results.json").read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr("recsysml.results.write_json", refuse)
            if status == "ok":
                with pytest.raises(JobError, match="No space left"):
                    run.finish(status)
            else:
                run.finish(status, "the real reason")
        assert (run.path / "results.json").read_bytes() == before
    assert "No space left" in capfd.readouterr().err


def test_the_tracker_gets_a_copy(tmp_path):
    class Recorder:
        def __init__(self):
            self.seen = []

        def log(self, step, values):
            self.seen.append((step, dict(values)))

        def finish(self, status, metrics):
            self.seen.append((status, metrics))

    run = start(tmp_path)
    run.tracker = recorder = Recorder()
    run.log(1, {"train/loss": 2.0, "lr": math.nan})
    run.metric("val/loss", 1.5, stderr=None, n=1, better="lower")
    run.finish("ok")
    assert recorder.seen == [(1, {"train/loss": 2.0, "lr": None}), ("ok", {"val/loss": 1.5})]


def test_cores_are_those_this_process_may_use():
    assert 1 <= environments.usable_cores() <= 4096
