"""Composition: what the YAML and the command line come to, and every mistake as one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import recsysml
from recsysml import catalogue, config, lazy
from recsysml.cli import main
from recsysml.errors import ConfigError
from recsysml.schemas import SCHEMAS

REPOSITORY = Path(recsysml.__file__).resolve().parents[1]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's --config-dir: data of another family, an experiment, and an experiment that forgot its package line."""
    files = {
        "data/films.yaml": "# ratings of films\nkind: interactions\nname: films\n",
        "data/python_docs.yaml": "# hides ours\nkind: python_text\nname: mine\npart: docs\n",
        "experiment/short.yaml": "# @package _global_\n# a short run\ndefaults:\n  - override /model: gpt2\n"
        "seed: 7\ntrainer:\n  max_steps: 5\n  lr: 0.5\n",
        "experiment/lost.yaml": "# a description first\n# @package _global_\nseed: 7\n",
    }
    for name, text in files.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    return tmp_path / "own"


def test_the_defaults_are_complete_and_typed() -> None:
    made = config.compose([])
    for group, kinds in SCHEMAS.items():
        part = getattr(made, group)
        assert type(part) is lazy.resolve(kinds[part.kind])
    assert isinstance(made.trainer.lr, float)
    assert made.model.size == "auto"


@pytest.mark.parametrize("group", list(SCHEMAS))
def test_every_yaml_lists_every_field(group: str) -> None:
    """Else a mistyped key would not be told from a new one."""
    import dataclasses

    for name, file in catalogue.choices(group).items():
        assert catalogue.description(file), f"{file}: no description in its first comment"
        kind = catalogue.kind_of(file)
        if kind is None:  # it stands on another choice, and names what it changes
            assert "/" in name
            model = {"retrieval_with": "sasrec", "ads_with": "ad_placement"}.get(name.split("/")[0], "gpt2_modern")
            config.compose([f"model={model}", f"{group}={name}"][group == "model" :])
            continue
        fields = {field.name for field in dataclasses.fields(lazy.resolve(SCHEMAS[group][kind]))}
        listed = set(catalogue._fields(file)) - {"defaults"}
        assert listed == fields, f"{file}: {listed ^ fields}"


def test_what_is_typed_wins_over_the_experiment_which_wins_over_the_model(own: Path) -> None:
    made = config.compose(["experiment=short"], own)
    assert (made.model.position, made.seed, made.trainer.max_steps, made.trainer.lr) == ("learned", 7, 5, 0.5)
    made = config.compose(["experiment=short", "model=gpt2_modern", "trainer.lr=2", "seed=9"], own)
    assert (made.model.position, made.seed, made.trainer.max_steps, made.trainer.lr) == ("rope", 9, 5, 2.0)


def test_a_users_folder_goes_first(own: Path) -> None:
    assert config.compose([], own).data.name == "mine"
    assert config.compose([]).data.name == "python_docs"


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["tasks=arc_easy,piqa"], "tasks", ["arc_easy", "piqa"]),
        (["tasks=piqa"], "tasks", ["piqa"]),
        (["tasks=[arc_easy,piqa]"], "tasks", ["arc_easy", "piqa"]),
        (["tracker.tags=a,b"], "tracker.tags", ["a", "b"]),
        (["data=text", "data.path=a.txt,books/*.txt"], "data.path", ["a.txt", "books/*.txt"]),
        (["trainer.max_steps=1e2"], "trainer.max_steps", 100),
        (["trainer.lr=1"], "trainer.lr", 1.0),
        (["trainer.sample_prompt='Hello, world'"], "trainer.sample_prompt", "Hello, world"),
        (["data=text", "+data.urls.x=y"], "data.urls", {"x": "y"}),
        (["model.n_layers=null"], "model.n_layers", None),
        (["seed=${trainer.max_steps}", "trainer.max_steps=5"], "seed", 5),
    ],
)
def test_values(overrides: list[str], key: str, value: object) -> None:
    made: object = config.compose(overrides)
    for part in key.split("."):
        made = getattr(made, part)
    assert made == value
    assert type(made) is type(value)


MISTAKES = [
    (
        "model=gpt3",
        "model=gpt3: no such model. Did you mean: model=gpt2? It is one of ad_placement, ",
    ),
    ("trainer=rl", "trainer=rl: no such trainer. It is one of ads, ads_with/direct"),
    ("experiment=nothing_like_it", "no such experiment"),
    ("modle=gpt2", "modle: there is no such key. Did you mean: model?"),
    ("trainer.lrr=1", "trainer.lrr: there is no such key. Did you mean: trainer.lr?"),
    ("trainer.learning_rate=1", "Did you mean: trainer.lr?"),
    ("lr=1e-3", "lr: there is no such key. Did you mean: trainer.lr?"),
    ("model.lr=3", "Did you mean: trainer.lr?"),
    ("model.block_size=3", "Did you mean: model.context_length?"),
    ("data.urls.x=y", "data.urls.x: there is no such key."),
    ("+trainer.foo=1", "trainer.foo: there is no such key."),
    ("trainer.lr=fast", "trainer.lr=fast: it must be a number."),
    ("trainer.lr=null", "trainer.lr=null: it must be a number."),
    ("trainer.max_steps=1.5", "trainer.max_steps=1.5: it must be a whole number."),
    ("trainer.compile=maybe", "trainer.compile=maybe: it must be true or false."),
    ("threads=many", "threads=many: it must be a whole number or null."),
    ("trainer.max_steps=0", "trainer.max_steps=0: it must be at least 1."),
    ("trainer.batch_size=0", "trainer.batch_size=0: it must be at least 1."),
    ("trainer.grad_accum=3", "trainer.grad_accum=3: trainer.batch_size=8 must be a multiple of it."),
    ("trainer.lr=0", "trainer.lr=0.0: it must be greater than 0."),
    ("trainer.lr=nan", "trainer.lr=nan: it must be greater than 0."),
    ("trainer.beta2=1", "trainer.beta2=1.0: it must lie between 0 and 1"),
    ("trainer.min_lr_ratio=2", "trainer.min_lr_ratio=2.0: it must lie between 0 and 1."),
    ("trainer.optimizer=admw", "trainer.optimizer=admw: Did you mean: adamw? It is one of adamw, muon."),
    ("trainer.precision=fp8", "it is one of auto, fp32, bf16, fp16."),
    ("trainer.schedule=cosin", "Did you mean: cosine?"),
    ("data.val_fraction=1", "data.val_fraction=1.0: it must lie between 0 and 1"),
    ("data.tokenizer=gpt4", "Did you mean: gpt2?"),
    ("data.part=code", "data.part=code: "),
    ("eval.split=validation", "eval.split=validation: "),
    ("device=gpu", "device=gpu: Did you mean: cuda?"),
    ("seed=-1", "seed=-1: it must be between 0 and 2**32 - 1."),
    ("threads=0", "threads=0: it must be at least 1."),
    ("threads=100000", "threads=100000: it must be at most 1024."),
    ("model.rope_theta=nan", "model.rope_theta=nan must be above 0"),
    ("model.rope_theta=inf", "model.rope_theta=inf must be above 0"),
    ("model.router_z_weight=inf", "model.router_z_weight=inf must be 0 or more"),
    ("model.load_balance_weight=nan", "model.load_balance_weight=nan must be 0 or more"),
    ("model=null", "model=null: no such model. It is one of ad_placement, "),
    ("model=[gpt3]", "model=[gpt3]: no such model."),
    ("model={}", "model={}: model is chosen by a name; its values are set one by one, model.KEY=VALUE."),
    ("data={val_fraction: 0.1}", "data is chosen by a name"),
    ("experiment=[]", "experiment is chosen by a name"),
    ("experiment=null", "experiment=null: leave it out"),
    ("+trainer={}", "trainer is chosen by a name"),
    ("model@x=gpt2", "model@x=gpt2: there is no such key. Did you mean: model=gpt2?"),
    ("sweep=mine", "sweep=mine: its values are set one by one, sweep.KEY=VALUE."),
    ("trainer.eval_tasks={}", "trainer.eval_tasks: it must be a list, written [a,b]."),
    ("trainer.lr={}", "trainer.lr={}: it must be a number."),
    ("model.init_from=", "model.init_from is empty; null is none."),
    ("data.vocab_size=1e9", "data.vocab_size=1000000000: it must be at most 1000000."),
    ("=gpt2", "=gpt2: an override is written key=value; the key is missing."),
    ("tracker.mode=online_", "Did you mean: online?"),
    ("sweep.name=a/b", "sweep.name=a/b: it names a folder"),
    ("model.kind=foo", "model.kind=foo: it is one of gpt, hf, "),
    ("trainer.lr=1e-3,3e-3", "trainer.lr takes one value; add -m to sweep over several."),
    ("model=gpt2,gpt2_modern", "model takes one value; add -m to sweep over several."),
    ("trainer.lr=range(1,3)", "add -m to sweep"),
    ("trainer.lrr=1,2", "trainer.lrr: there is no such key. Did you mean: trainer.lr?"),
    ("gpt2", "gpt2: an override is written key=value. Did you mean: model=gpt2?"),
    ("trainer.lr", "Did you mean: trainer.lr=...?"),
    ("model", "model: an override is written key=value. model= takes one of ad_placement, "),
    ("help", "Did you mean: --help?"),
    ("--trainer.lr=1", "overrides are written without dashes. Did you mean: trainer.lr=1?"),
    ("--hlep", "--hlep: no such option. Did you mean: --help?"),
    ("~trainer.lr", "~trainer.lr: keys cannot be deleted"),
    ("hydra.run.dir=x", "only hydra/launcher may be set, in a sweep."),
    ("hydra/launcher=joblib", "it works only in a sweep; add -m."),
    ("trainer.sample_prompt=Hello (world", "the value is not understood; quote it twice"),
    ("model=gpt2 data=text", "several overrides in one word; leave out the quotes."),
    ("seed=${nowhere}", "nowhere"),
]


@pytest.mark.parametrize(("override", "words"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_a_mistake_is_one_line_that_mends_it(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.compose([override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_that_cannot_work_list_what_fits(own: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.compose(["model=gpt2", "data=films"], own)
    message = str(caught.value)
    assert message.startswith("data=films does not fit model=gpt2, which learns from text; data that fit model=gpt2: ")
    fitting = message.rpartition(": ")[2].rstrip(".").split(", ")
    assert "python_docs" in fitting
    assert "films" not in fitting


def test_what_does_not_fit_an_experiment_is_said_in_typed_words() -> None:
    for typed, said in (
        ("data=open_bandit", "data=open_bandit does not fit experiment=feedback_loop, which sets data.events"),
        ("trainer=ranking", "trainer=ranking does not fit experiment=feedback_loop, which sets trainer."),
        ("data.event=3", "data.event: there is no such key. Did you mean: data.events?"),  # typed, so it is named
    ):
        with pytest.raises(ConfigError) as caught:
            config.compose(["experiment=feedback_loop", typed])
        assert str(caught.value).startswith(said)


def test_a_list_where_a_table_belongs_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"^data\.urls: it must be a table, written {a: b}\.$"):
        config.compose(["data=text", "data.urls=[]"])


def test_a_loss_of_one_vector_a_user_does_not_fit_several() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.loss=cluster does not fit model=multi_head"):
        config.compose(["model=multi_head", "trainer.loss=cluster"])


def test_friends_are_asked_of_data_that_has_them() -> None:
    with pytest.raises(ConfigError) as caught:
        config.compose(["model=two_tower", "model.user_graph=friends", "data=ml-100k"])
    assert str(caught.value) == "data=ml-100k has no friends for model.user_graph=friends; data that have: world."
    assert config.compose(["model=two_tower", "model.user_graph=friends"]).model.user_graph == "friends"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "model.weighting=gradnorm trainer.compile=true",
            "model.weighting=gradnorm looks into the backward pass: it needs trainer.compile=false.",
        ),
        (
            "model.calibration_fit=in_model trainer.compile=true",
            "model.calibration_fit=in_model needs trainer.compile=false and one process.",
        ),
        (
            "model.norm=batch trainer.grad_accum=2",
            "model.norm=batch norms over a whole batch: it needs trainer.grad_accum=1 and one process.",
        ),
        ("model.norm=batch trainer.batch_size=1", "trainer.batch_size=1: it must be at least 2."),
        (
            "data=impressions model.calibrate_cohorts=true",
            "model.calibrate_cohorts: the data names no cohort columns; set data.cohorts.",
        ),
        (
            "data=impressions trainer.cohort_weight=1",
            "trainer.cohort_weight: the data names no cohort columns; set data.cohorts.",
        ),
    ],
)
def test_a_ranker_that_cannot_be_trained_so_costs_no_run(
    words: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone each of the two is fine; together they are refused in one line, before a run directory exists."""
    pair = words.split()
    tiny = [] if "data=impressions" in pair else ["data.users=20", "data.events=500", "trainer.max_steps=1"]
    assert main(["train", "model=mtml", *pair, *tiny, f"outputs={tmp_path}"]) == 2
    assert capsys.readouterr().err.strip() == f"error: {line}"
    assert not list(tmp_path.iterdir())
    for alone in pair:
        config.compose(["model=mtml", alone])


@pytest.mark.parametrize("alone", ["model.calibration_fit=in_model", "model.norm=batch"])
def test_what_needs_one_process_is_refused_in_several(alone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config.compose(["model=mtml"])
    with pytest.raises(ConfigError, match="one process"):
        config.compose(["model=mtml", alone])


def test_an_experiment_without_its_package_line_is_refused(own: Path) -> None:
    """Hydra would read it into a node that nothing looks at."""
    with pytest.raises(ConfigError, match="@package _global_"):
        config.compose(["experiment=lost"], own)


def test_a_config_dir_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        config.compose([], tmp_path / "nowhere")


def test_a_yaml_that_is_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken.yaml").write_text("kind: [text\n")
    with pytest.raises(ConfigError) as caught:
        config.compose(["data=broken"], tmp_path)
    assert "\n" not in str(caught.value)


def test_a_written_config_is_read_back_equal(tmp_path: Path) -> None:
    import dataclasses

    import yaml

    made = config.compose(["trainer.lr=1e-5", "tracker.tags=[a]"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(made)))
    assert config.read_run(tmp_path) == made
    with pytest.raises(ConfigError, match=r"nowhere/config\.yaml is missing"):
        config.read_run(tmp_path / "nowhere")
    for damage, where in (("seed: 1\nthreads", "line 2"), ("[]", "no config"), ("seed: [1", "line 1")):
        (tmp_path / "config.yaml").write_text(damage)
        with pytest.raises(ConfigError, match=rf"config\.yaml is damaged.*{where}") as caught:
            config.read_run(tmp_path)
        assert "\n" not in str(caught.value)


def test_no_global_state_is_left() -> None:
    from hydra.core.global_hydra import GlobalHydra

    config.compose([])
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigError):
        config.compose(["model=gpt3"])
    assert not GlobalHydra.instance().is_initialized()


def test_no_mistake_costs_an_import_of_torch() -> None:
    program = """
import json, sys
from recsysml import config
from recsysml.errors import ConfigError
for override in json.loads(sys.argv[1]):
    try:
        config.compose([override])
    except ConfigError:
        continue
    raise AssertionError(override)
config.compose([])
print([name for name in ("torch", "transformers", "datasets", "wandb", "lm_eval") if name in sys.modules])
"""
    overrides = json.dumps([override for override, _ in MISTAKES[::8]])
    done = subprocess.run(
        [sys.executable, "-c", program, overrides], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "[]"


def test_a_stale_copy_of_conf_in_site_packages_does_not_win(tmp_path: Path) -> None:
    """What an editable install leaves there: the conf/ that the wheel would hold, under a recsysml without code."""
    site = tmp_path / "site"
    (site / "recsysml" / "conf").mkdir(parents=True)
    (site / "recsysml" / "conf" / "config.yaml").write_text("stale: true\n")
    program = (
        f"import sys; sys.path[:0] = [{str(site)!r}, {str(REPOSITORY)!r}]\n"
        "from recsysml.config import conf_dir; print(conf_dir())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert Path(done.stdout.strip()) == REPOSITORY / "conf"


def test_an_installed_package_has_conf_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recsysml" / "conf").mkdir(parents=True)
    monkeypatch.setattr(recsysml, "__file__", str(tmp_path / "recsysml" / "__init__.py"))
    assert config.conf_dir() == tmp_path / "recsysml" / "conf"
