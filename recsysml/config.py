"""From words on a command line to one typed RunConfig. This file and launch.py alone know Hydra.

Two steps. Hydra composes the YAML, which lists every field, so that a mistyped key fails there; then the dataclasses of
the chosen kinds check types, values and pairs. Neither imports torch: a mistake costs half a second.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsysml import catalogue, lazy
from recsysml.catalogue import conf_dir
from recsysml.errors import ConfigError
from recsysml.schemas import SCHEMAS
from recsysml.schemas.checks import nearest
from recsysml.schemas.run import RunConfig, SweepConfig, TrackerConfig

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.override_parser.types import Override

__all__ = ["compose", "compose_with", "conf_dir", "from_dict", "from_hydra", "hydra_at", "mistake", "parse", "prepare", "read_run"]

# what other programs call our keys
OTHER_WORDS = {
    "learning_rate": "lr", "steps": "max_steps", "max_iters": "max_steps", "iterations": "max_steps",
    "batch": "batch_size", "gradient_accumulation_steps": "grad_accum", "accumulate": "grad_accum",
    "warmup": "warmup_steps", "warmup_iters": "warmup_steps", "block_size": "context_length",
    "max_length": "context_length", "n_embd": "d_model", "hidden_size": "d_model", "dim": "d_model",
    "layers": "n_layers", "n_layer": "n_layers", "num_layers": "n_layers", "heads": "n_heads", "n_head": "n_heads",
    "num_heads": "n_heads", "optim": "optimizer", "dtype": "precision", "gpu": "device", "num_workers": "loader_workers",
    "clip": "grad_clip", "max_grad_norm": "grad_clip", "wd": "weight_decay", "eval_interval": "eval_every",
    "log_interval": "log_every", "num_threads": "threads", "output_dir": "outputs", "wandb": "tracker.mode",
}  # fmt: skip


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> RunConfig:
    """The typed, checked config of one run. Raises ConfigError, one line, for any mistake."""
    with hydra_at(config_dir) as hydra:
        return compose_with(hydra, prepare(hydra, overrides, config_dir), config_dir)


def compose_with(hydra: Hydra, words: Sequence[str], config_dir: Path | None) -> RunConfig:
    """`compose` with overrides that were prepared, for many configs of one Hydra."""
    from hydra.types import RunMode

    try:
        config = hydra.compose_config("config", list(words), RunMode.RUN)
    except Exception as error:
        raise mistake(hydra, words, config_dir, error) from None
    return from_hydra(config, config_dir)


@contextmanager
def hydra_at(config_dir: Path | None = None) -> Iterator[Hydra]:
    """A Hydra that looks in `config_dir` first, then in our conf/. Its global state is cleared before and after."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    path = create_config_search_path(str(conf_dir()))
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
        path.prepend("user", f"file://{config_dir.resolve()}")
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2("recsysml", path)
    finally:
        GlobalHydra.instance().clear()


def prepare(hydra: Hydra, overrides: Sequence[str], config_dir: Path | None, *, sweep: bool = False) -> list[str]:
    """Check the shape of each override and turn a comma list for a list key into a list (not in a sweep)."""
    from hydra.types import RunMode

    for text in overrides:
        _check_shape(text, config_dir, sweep)
    parsed = [parse(hydra, text) for text in overrides]
    swept = [override for override in parsed if override.is_sweep_override()]
    if sweep or not swept:
        return list(overrides)
    rest = [text for text, override in zip(overrides, parsed, strict=True) if override not in swept]
    try:
        base = hydra.compose_config("config", rest, RunMode.RUN)
    except Exception as error:
        raise mistake(hydra, rest, config_dir, error) from None
    words = list(overrides)
    for index, override in enumerate(parsed):
        if override in swept:
            key, _, value = overrides[index].partition("=")
            if not isinstance(_at(base, key.lstrip("+")), list):
                _check_key(key.lstrip("+"), base, config_dir)
                raise ConfigError(f"{overrides[index]}: {key} takes one value; add -m to sweep over several.")
            words[index] = f"{key}=[{value}]"
    return words


def parse(hydra: Hydra, text: str) -> Override:
    """One override by Hydra's grammar. Raises ConfigError with a hint at quotes."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return OverridesParser.create(config_loader=hydra.config_loader).parse_override(text)
    except Exception:
        key, _, value = text.partition("=")
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        raise ConfigError(f"{text}: the value is not understood; quote it twice: \"{key}='{quoted}'\"") from None


def _check_shape(text: str, config_dir: Path | None, sweep: bool) -> None:
    key, equals, value = text.partition("=")
    if text.startswith("-"):
        plain = key.lstrip("-").replace("-", "_")
        option = nearest(key, ["--multirun", "--resume", "--config-dir", "--rerun", "--help", "--verbose"])
        if equals:
            raise ConfigError(f"{text}: overrides are written without dashes. Did you mean: {plain}={value}?")
        raise ConfigError(f"{key}: no such option. " + (f"Did you mean: {option}?" if option else "See -h."))
    if text.startswith("~"):
        raise ConfigError(f"{text}: keys cannot be deleted; set another value.")
    if not equals:
        raise ConfigError(f"{text}: an override is written key=value. {_bare_word_hint(text, config_dir)}".rstrip())
    if key.startswith("hydra"):
        launcher = key == "hydra/launcher" or key.startswith("hydra.launcher.")
        if not (launcher and sweep):
            use = "it works only in a sweep; add -m." if launcher else "only hydra/launcher may be set, in a sweep."
            raise ConfigError(f"{text}: {use}")


def _bare_word_hint(word: str, config_dir: Path | None) -> str:
    groups = catalogue.groups(config_dir)
    names = {name: group for group in groups for name in catalogue.choices(group, config_dir)}
    if word in ("help", "h"):
        return "Did you mean: --help?"
    if word in groups:
        return f"Did you mean: {word}={next(iter(catalogue.choices(word, config_dir)))}?"
    if word in names or nearest(word, names):
        name = word if word in names else nearest(word, names)
        return f"Did you mean: {names[str(name)]}={name}?"
    key = nearest(word, catalogue.keys(config_dir))
    return f"Did you mean: {key}=...?" if key else ""


# --- what went wrong


def mistake(hydra: Hydra, overrides: Sequence[str], config_dir: Path | None, error: Exception) -> ConfigError:
    """The one line that explains why these overrides do not compose. Hydra's own message is the last resort."""
    from hydra.types import RunMode

    try:
        chosen = []
        for text in overrides:
            override = parse(hydra, text)
            key = override.key_or_group
            options = catalogue.choices(key, config_dir) if "." not in key and "/" not in key else {}
            if options or key == "experiment":
                chosen.append(text)
                value = override.value()
                if value is not None and value not in options and not override.is_sweep_override():
                    near = nearest(str(value), options)
                    hint = f"Did you mean: {key}={near}? " if near else ""
                    return ConfigError(f"{text}: no such {key}. {hint}It is one of {', '.join(options) or 'none yet'}.")
        base = hydra.compose_config("config", [t for t in chosen if not parse(hydra, t).is_sweep_override()], RunMode.RUN)
        for text in overrides:
            if text not in chosen and not text.startswith("hydra"):
                _check_key(text.partition("=")[0].lstrip("+"), base, config_dir)
    except ConfigError as found:
        return found
    except Exception as other:
        error = other
    if any(text.startswith("hydra/launcher=joblib") for text in overrides) and "launcher/joblib" in str(error):
        return ConfigError("hydra/launcher=joblib: it is not installed; pip install 'recsysml[parallel]'.")
    return ConfigError(" ".join(str(error).split()).partition(" Config search path:")[0] or type(error).__name__)


def _check_key(key: str, config: Any, config_dir: Path | None) -> None:
    """Raise ConfigError with the nearest right word when `key` is not in the composed config."""
    groups = catalogue.groups(config_dir)
    known = [name for name in _leaves(_plain(config)) if not name.startswith("hydra")]
    branches = {name.rpartition(".")[0] for name in known} - {""}
    if key in known or key in branches or key in groups or any(key.startswith(f"{name}.") for name in _dicts(config)):
        return
    prefix, _, leaf = key.rpartition(".")
    word = OTHER_WORDS.get(leaf, leaf)
    same = [name for name in known if name == word or name.rpartition(".")[2] == word]
    same = [name for name in same if name.rpartition(".")[0] == prefix] or same
    if not same:
        inside = [name for name in known if name.rpartition(".")[0] == prefix]
        leaves = {name.rpartition(".")[2]: name for name in inside}
        near = nearest(leaf, leaves)
        found = leaves[near] if near else nearest(key, known if "." in key else [*known, *groups])
        same = [found] if found else []
    while prefix and prefix not in branches:
        prefix = prefix.rpartition(".")[0]
    if same:
        hint = f"Did you mean: {' or '.join(same)}?"
    elif prefix in branches:
        hint = f"{prefix} has: {', '.join(n.rpartition('.')[2] for n in known if n.startswith(prefix + '.'))}."
    else:
        hint = f"There is: {', '.join([*groups, *(n for n in known if '.' not in n)])}."
    raise ConfigError(f"{key}: there is no such key. {hint}")


def _plain(config: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config


def _at(config: Any, key: str) -> Any:
    """The plain value at a dotted key; None when it is not there."""
    value = {name: part for name, part in _plain(config).items() if name != "hydra"}
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in tree.items():
        if isinstance(value, dict) and value and str(name) != "hydra":
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def _dicts(config: Any) -> list[str]:
    """Keys below the groups whose value is a table of the user's own keys (data.urls)."""
    tree = _plain(config)
    return [
        f"{group}.{name}"
        for group in SCHEMAS
        for name, value in (tree.get(group) or {}).items()
        if isinstance(value, dict)
    ]


# --- from a tree to dataclasses


def from_hydra(config: Any, config_dir: Path | None = None) -> RunConfig:
    """The second step, on what Hydra composed; inside one of Hydra's jobs its own node is already cut off."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    choices = config.hydra.runtime.choices if "hydra" in config else HydraConfig.get().runtime.choices
    tree = {name: node for name, node in config.items_ex(resolve=False) if name != "hydra"}
    try:
        plain = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {' '.join(str(error).split()).partition(' full_key:')[0]}.") from None
    assert isinstance(plain, dict)
    names = {group: str(choices[group]) for group in SCHEMAS if choices.get(group)}
    return from_dict({str(name): value for name, value in plain.items()}, names, config_dir)


def from_dict(
    tree: Mapping[str, Any], names: Mapping[str, str] | None = None, config_dir: Path | None = None
) -> RunConfig:
    """A plain tree (composed, or read from a run's config.yaml) as checked dataclasses.

    `names`: the YAML chosen for each group, for messages; a label of the config stands in for a missing one.
    """
    parts = dict(tree)
    if isinstance(parts.get("experiment"), dict):
        raise ConfigError("experiment: its file must have `# @package _global_` as its first line.")
    groups: dict[str, Any] = {}
    for group in SCHEMAS:
        node = parts.pop(group, None)
        if not isinstance(node, dict):
            raise ConfigError(f"{group}: nothing is chosen. It is one of {', '.join(catalogue.choices(group, config_dir))}.")
        kind = node.get("kind")
        if kind not in SCHEMAS[group]:
            raise ConfigError(f"{group}.kind={kind}: it is one of {', '.join(SCHEMAS[group])}.")
        groups[group] = _build(lazy.resolve(SCHEMAS[group][kind]), node, group)
    groups["tracker"] = _build(TrackerConfig, parts.pop("tracker", {}), "tracker")
    groups["sweep"] = _build(SweepConfig, parts.pop("sweep", {}), "sweep")
    config = _build(RunConfig, parts, "")
    for group, value in groups.items():
        setattr(config, group, value)
    for part in (*groups.values(), config):
        if hasattr(part, "validate"):
            part.validate()
    labels = {group: getattr(groups[group], "name", groups[group].kind) for group in SCHEMAS}
    _check_pairs(config, {**labels, **(names or {})}, config_dir)
    return config


def _build(schema: type, values: Mapping[str, Any], prefix: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    types = typing.get_type_hints(schema)
    structured = OmegaConf.structured(schema)
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if name not in {field.name for field in dataclasses.fields(schema)}:
            near = nearest(str(name), types)
            hint = f"Did you mean: {key.removesuffix(str(name))}{near}?" if near else ""
            raise ConfigError(f"{key}: there is no such key. {hint}".rstrip())
        expected = str(types[name])
        if "list[" in expected and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            value = [value]  # `tasks=piqa` is a list of one
        if re.search(r"\bint\b", expected) and isinstance(value, float) and value.is_integer():
            value = int(value)  # `max_steps=1e3`
        try:
            structured[name] = value
        except OmegaConfBaseException:
            shown = "null" if value is None else value
            raise ConfigError(f"{key}={shown}: {_expectation(types[name])}.") from None
    return OmegaConf.to_object(structured)


def _expectation(hint: Any) -> str:
    words = {
        "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text",
        "list": "a list, written [a,b]", "dict": "a table, written {a: b}",
    }  # fmt: skip
    options = [option for option in typing.get_args(hint) if isinstance(option, type)]
    plain = [option for option in options if option is not type(None)] if type(None) in options else [hint]
    name = getattr(typing.get_origin(plain[0]) or plain[0], "__name__", str(plain[0]))
    return f"it must be {words.get(name, name)}" + (" or null" if type(None) in options else "")


def _check_pairs(config: RunConfig, names: Mapping[str, str], config_dir: Path | None) -> None:
    """The model, its data, its trainer and its eval must fit; else ConfigError lists the choices that do."""

    def fitting(group: str, fits: typing.Callable[[str, type], bool]) -> str:
        found = []
        for name, file in catalogue.choices(group, config_dir).items():
            kind = catalogue.kind_of(file)
            if kind in SCHEMAS[group] and fits(kind, lazy.resolve(SCHEMAS[group][kind])):
                found.append(name)
        return ", ".join(found) or "none yet"

    model, family = config.model, config.model.accepts
    label = f"model={names['model']}"
    if config.data.family != family:
        fit = fitting("data", lambda kind, schema: schema.family == family)  # type: ignore[attr-defined]
        raise ConfigError(
            f"data={names['data']} does not fit {label}, which learns from {family}; data that fit {label}: {fit}."
        )
    if config.trainer.kind not in model.trainers:
        fit = fitting("trainer", lambda kind, schema: kind in model.trainers)
        raise ConfigError(f"trainer={names['trainer']} does not fit {label}; trainers that fit {label}: {fit}.")
    if config.eval.family != family:
        fit = fitting("eval", lambda kind, schema: schema.family == family)  # type: ignore[attr-defined]
        raise ConfigError(f"eval={names['eval']} does not fit {label}; evals that fit {label}: {fit}.")


def read_run(run: Path) -> RunConfig:
    """The config a run was made with, from its config.yaml. Raises ConfigError where there is none."""
    import yaml

    file = run / "config.yaml"
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{run}: there is no config.yaml; it is not a run directory.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: it holds no config.")
    return from_dict(tree)
