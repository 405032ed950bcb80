"""The command line: help, exit codes, one line for each mistake, completion; quick because it imports little."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import recsysml
from recsysml import catalogue
from recsysml.cli import main

REPOSITORY = Path(recsysml.__file__).resolve().parents[1]
COMMANDS = ["train", "eval", "config", "list", "generate", "export", "data", "doctor", "diff", "report", "recommend"]


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        check=False,
    )


def one_line_error(argv: list[str], capsys: pytest.CaptureFixture[str], outputs: Path) -> str:
    """Runs a command that is a mistake: exit code 2, one line on standard error, nothing printed or written."""
    assert main(argv) == 2
    _, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert not outputs.exists() or not any(outputs.iterdir())
    return err


@pytest.mark.parametrize("argv", [["--help"], ["-h"], [], *([name, "-h"] for name in COMMANDS)], ids=" ".join)
def test_help_works_everywhere_and_loads_nothing_heavy(argv: list[str]) -> None:
    heavy = ("torch", "rich.console", "hydra", "omegaconf", "numpy", "yaml", "wandb", "lm_eval", "click")
    program = (
        f"import sys\nfrom recsysml.cli import main\ncode = main({argv!r})\n"
        f"print('code', code, [name for name in {heavy!r} if name in sys.modules])"
    )
    done = python(program)
    expected = "code 0 []" if argv else "code 2 []"
    assert done.stdout.splitlines()[-1] == expected, done.stdout + done.stderr
    assert "Usage:" in done.stdout


def test_help_shows_exactly_the_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == recsysml.__version__


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "train"),
        (["train", "model=gpt3"], "Did you mean: model=gpt2?"),
        (["train", "trainer.lrr=1"], "Did you mean: trainer.lr?"),
        (["train", "model=gpt2", "data=ml-100k"], "data that fit model=gpt2: fineweb_edu, python_docs, python_source"),
        (["train", "model={}"], "model is chosen by a name"),
        (["train", "gpt2"], "Did you mean: model=gpt2?"),
        (["train", "--model=gpt2"], "Did you mean: model=gpt2?"),
        (["train", "--mutlirun"], "Did you mean: --multirun?"),
        (["train", "trainer.lr=1,2"], "add -m"),
        (["train", "tasks=piqa"], "belongs to `recsysml eval`"),
        (["train", "checkpoint=x"], "model.init_from=x"),
        (["train", "--config-dir", "nowhere"], "there is no such folder"),
        (["train", "--rerun"], "-m"),
        (["train", "-m", "--resume", "x"], "the same command"),
        (["train", "--resume", "nowhere"], "not a run directory"),
        (["train", "--resume"], "--resume"),
        (["train", "data=text"], "data.path"),
        (["train", "data=text", "data.path=nowhere.txt"], "nowhere.txt"),
        (["train", "-m", "trainer.lr=1e-3,2e-3", "trainer.max_step=3"], "Did you mean: trainer.max_steps?"),
        (["train", "-m", "trainer.lr=1e-3,-1"], "trainer.lr=-1.0: it must be greater than 0."),
        (["train", "-m", "trainer.lr=1e-3", "hydra/launcher=jobli"], "hydra/launcher"),
        (["train", "-m", "hydra.sweep.dir=x", "seed=1,2"], "only hydra/launcher may be set"),
        (["train", "-m", "sweep.name=a,b"], "one sweep.name"),
        (["train", "-m", "seed=range(1,1)"], "seed=range(1,1): there is nothing in it to sweep over."),
        (["train", "-m", "trainer.lr=interval(0.1,1)"], "an interval has no end of values; list them"),
        (["train", "-m", "model=gpt2,gpt3"], "gpt3: no such model"),
        (["train", "data=text", "data.path="], "data.path is empty"),
        (["train", "model.size=nano", "model.init_from=nowhere"], "model.init_from=nowhere does not exist"),
        (["list", "models", "--config-dir", "nowhere"], "there is no such folder"),
        (["generate", "last", "--seed", "99999999999999999999"], "--seed"),
        (["eval", "tasks=arc_esy"], "Did you mean: arc_easy?"),
        (
            ["eval", "tasks=arc_easy,piqa"],
            "set RECSYSML_DATA to the folder that holds arc_easy/test.jsonl; or",
        ),
        (["eval", "eval=language", "tasks=piqa"], "runs no tasks"),
        (["eval", "eval=lm_harness"], "name the tasks"),
        (["eval", "--trust"], "belongs to tasks"),
        (["eval", "tasks=heldout", "eval.batch_size=0"], "eval.batch_size=0"),
        (["eval", "tasks=heldout", "eval.task_folder=nowhere"], "there is no such folder"),
        (["eval", "tasks=heldout"], "no finished or interrupted train run"),
        (["eval", "model=hf", "tasks=heldout"], "name a local folder"),
        (["eval", "model=hf", "model.path=./nowhere", "tasks=heldout"], "there is no such folder"),
        (["eval", "model=hf", "model.path=no/where", "tasks=heldout"], "which cannot be reached"),
        (["train", "model=hf"], "model=hf is judged, not trained"),
        (["train", "trainer.eval_tasks=[arc_esy]"], "Did you mean: arc_easy?"),
        (["eval", "limit=3"], "limit belongs to tasks"),
        (["eval"], "no finished or interrupted train run"),
        (["eval", "checkpoint=nowhere"], "nowhere"),
        (["config", "foo=1"], "there is no such key"),
        (["config", "--from", "nowhere"], "not a run directory"),
        (["list", "modles"], "Did you mean: models?"),
        (["list", "--foo"], "--foo"),
        (["data", "prepare"], "name a data set"),
        (["data", "prepare", "python_dosc"], "Did you mean: python_docs?"),
        (["data", "chekc"], "Did you mean: check?"),
        (["generate", "last"], "no finished or interrupted train run"),
        (["generate"], "Missing argument 'CHECKPOINT'. See: recsysml generate -h."),
        (["train", "-m", "trainer.lr=1e-3,"], "a comma with no value beside it. Did you mean: trainer.lr=1e-3?"),
        (["train", "-m", "trainer.lr=1e-3,,3e-3"], "Did you mean: trainer.lr=1e-3,3e-3?"),
        (["train", "-m", "seed=,"], "a comma with no value beside it."),
        (["train", "trainer.optimizer=sgd"], "trainer.optimizer=sgd: it is one of adamw, muon."),
        (["list", "--config"], "See: recsysml list -h."),
        (["export", "nowhere", "x"], "nowhere"),
        (["diff", "a"], "B"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], own_outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECSYSML_DATA", raising=False)
    assert words in one_line_error(argv, capsys, own_outputs)


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(("target", "code", "words"), [("gone", 0, ""), ("full", 1, "error: "), ("closed", 0, "")])
def test_output_that_cannot_be_written(buffered: bool, target: str, code: int, words: str) -> None:
    """`| head`, a full disk behind `>`, and `>&-`."""
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "recsysml", "list"]
    if target == "gone":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full" if target == "full" else os.devnull, os.O_WRONLY)
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command] if target == "closed" else command
    done = subprocess.run(shell, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False)
    os.close(writer)
    assert done.returncode == code
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == (1 if words else 0), done.stderr


def test_a_word_that_is_not_utf8(capsys: pytest.CaptureFixture[str], own_outputs: Path) -> None:
    assert "not UTF-8" in one_line_error(["train", "data.path=\udcff.txt"], capsys, own_outputs)


def test_a_mistake_shows_its_traceback_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "model=gpt3", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_config_prints_yaml_that_keeps_auto_and_says_so(capsys: pytest.CaptureFixture[str], own_outputs: Path) -> None:
    assert main(["config", "model=gpt2", "trainer.lr=1e-4"]) == 0
    shown = capsys.readouterr().out
    settled = "device, threads, model.size, trainer.precision, trainer.deterministic"
    assert shown.startswith(f"# A run settles these at its start, by its machine: {settled}.\n")
    tree = yaml.safe_load(shown)
    assert tree["trainer"]["lr"] == 1e-4
    assert (tree["model"]["size"], tree["device"], tree["trainer"]["precision"]) == ("auto", "auto", "auto")
    assert not own_outputs.exists()


def test_config_says_nothing_of_what_is_settled(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["device=cpu", "threads=2", "trainer.precision=fp32", "trainer.deterministic=true"]
    dimensions = ["model.n_layers=1", "model.n_heads=2", "model.d_model=16", "model.context_length=8"]
    assert main(["config", *words, *dimensions]) == 0
    assert not capsys.readouterr().out.startswith("#")


def test_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# my own model\nkind: gpt\n")
    assert main(["list", "models", "--config-dir", str(tmp_path)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["mine", "my own model"] in lines
    assert all(len(line) == 2 for line in lines)
    assert "gpt2_modern" in [name for name, _ in lines]
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "trainers:" in shown and "trackers:\n  wandb" in shown
    assert main(["list", "runs"]) == 0


def test_list_of_tasks_has_the_users_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("# my own questions\ntask: mine\n")
    (tmp_path / "task" / "both.yaml").write_text("group: two_of_mine\ntask:\n  - mine\n")
    assert main(["list", "tasks", "--config-dir", str(tmp_path)]) == 0
    shown = dict(line.partition("  ")[::2] for line in capsys.readouterr().out.splitlines())
    assert shown["mine"] == "my own questions"
    assert {"two_of_mine", "winogrande"} <= set(shown)
    assert shown["heldout"].startswith("how your own validation text goes on")


def test_task_names_are_lm_evals_and_are_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = catalogue.task_names()
    assert {"arc_easy", "piqa", "hellaswag", "mmlu", "ai2_arc"} <= set(names)
    assert list((own_cache / "recsysml").glob("lm_eval_tasks-*.json"))
    monkeypatch.setattr(catalogue, "_scan_tasks", None)  # reading the 10,000 files again would fail
    assert catalogue.task_names() == names


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "model=gpt2_m", ["model=gpt2_modern"]),
        (["model"], "gpt2_m", ["gpt2_modern"]),  # bash cuts words at "="
        (["model", "="], "gpt2_m", ["gpt2_modern"]),
        (["seed=1"], "data=python_d", ["data=python_docs"]),
        ([], "trainer.max_s", ["trainer.max_steps="]),
        ([], "mod", ["model="]),
        ([], "seed=", []),
    ],
)
def test_completions(words: list[str], incomplete: str, expected: list[str]) -> None:
    found = catalogue.complete(words, incomplete)
    assert expected == [name for name in found if not name.startswith("model.")]


@pytest.mark.parametrize(
    ("shell", "environment", "expected"),
    [
        ("bash", {"COMP_WORDS": "recsysml train model = gpt2_m", "COMP_CWORD": "4"}, "gpt2_modern"),
        ("bash", {"COMP_WORDS": "recsysml train model =", "COMP_CWORD": "3"}, "gpt2\ngpt2_modern"),
        ("bash", {"COMP_WORDS": "recsysml tra", "COMP_CWORD": "1"}, "train"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "recsysml train model=gpt2_m"}, "model=gpt2_modern"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "recsysml train trainer.max_s", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
         "trainer.max_steps="),
        ("bash", {"COMP_WORDS": "recsysml list mo", "COMP_CWORD": "2"}, "models"),
    ],
)  # fmt: skip
def test_the_shell_completes(shell: str, environment: dict[str, str], expected: str) -> None:
    program = (
        "import sys, atexit\natexit.register(lambda: print([n for n in ('hydra', 'torch') if n in sys.modules]))\n"
    )
    done = python(
        program + "from recsysml.cli import main; main()", _RECSYSML_COMPLETE=f"complete_{shell}", **environment
    )
    text, _, heavy = done.stdout.strip().rpartition("\n")
    assert expected in text, done.stdout + done.stderr
    assert heavy == "[]"
