"""From words on a command line to one typed RunConfig. This file, launch.py and multirun.py alone know Hydra.

Two steps. Hydra composes the YAML, which lists every field, so that a mistyped key fails there; then the dataclasses of
the chosen kinds check types, values and pairs. Neither imports torch: a mistake costs half a second.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsysml import catalogue, hints, lazy
from recsysml.catalogue import conf_dir
from recsysml.errors import ConfigError, NoSuchKey
from recsysml.schemas import SCHEMAS
from recsysml.schemas.checks import nearest
from recsysml.schemas.run import RunConfig, SweepConfig, TrackerConfig

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.override_parser.types import Override

__all__ = ["compose", "compose_with", "from_dict", "from_hydra", "hydra_at", "mistake", "parse", "prepare", "read_run"]


def compose(overrides: Sequence[str], config_dir: Path | None = None, *, whole: bool = True) -> RunConfig:
    """The typed, checked config of one run. Raises ConfigError, one line, for any mistake.

    whole: False for one that is yet to be merged with another: its keys and types are checked, its values are not.
    """
    with hydra_at(config_dir) as hydra:
        return compose_with(hydra, prepare(hydra, overrides, config_dir), config_dir, whole=whole)


def compose_data(name: str, config_dir: Path | None = None) -> Any:
    """The checked config of one data set, whether or not it fits the default model."""
    options = catalogue.choices("data", config_dir)
    if name not in options:
        near = nearest(name, options)
        hint = f"Did you mean: {near}? " if near else ""
        raise ConfigError(f"{name}: no such data. {hint}It is one of {', '.join(options)}.")
    from hydra.types import RunMode

    with hydra_at(config_dir) as hydra:
        node = _plain(hydra.compose_config("config", [f"data={name}"], RunMode.RUN))["data"]
    part = _part("data", node, config_dir)
    part.validate()
    return part


def compose_with(hydra: Hydra, words: Sequence[str], config_dir: Path | None, *, whole: bool = True) -> RunConfig:
    """`compose` with overrides that were prepared, for many configs of one Hydra."""
    from hydra.types import RunMode

    try:
        config = hydra.compose_config("config", list(words), RunMode.RUN)
    except Exception as error:
        raise mistake(hydra, words, config_dir, error) from None
    return from_hydra(config, config_dir, whole=whole)


@contextmanager
def hydra_at(config_dir: Path | None = None) -> Iterator[Hydra]:
    """A Hydra that looks in `config_dir` first, then in our conf/. Its global state is cleared before and after."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    path = create_config_search_path(str(conf_dir()))
    for folder in catalogue.folders(config_dir)[:-1]:  # the last one is conf/ itself
        path.prepend("user", f"file://{folder.resolve()}")
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
        hints.check_shape(text, config_dir, sweep)
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
            if not isinstance(hints.at(_plain(base), key.lstrip("+")), list):
                hints.check_key(key.lstrip("+"), _plain(base), config_dir)
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
        if re.search(r"^\[?\s*,|,\s*(,|\]?$)", value):
            kept = ",".join(part.strip() for part in value.split(",") if part.strip(" []"))
            raise ConfigError(
                f"{text}: there is a comma with no value beside it." + (f" Did you mean: {key}={kept}?" if kept else "")
            ) from None
        if re.search(r"\s[\w./]+=", value):
            raise ConfigError(f"{text}: these are several overrides in one word; leave out the quotes.") from None
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        raise ConfigError(f"{text}: the value is not understood; quote it twice: \"{key}='{quoted}'\"") from None


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
                if value is None and key == "experiment":
                    return ConfigError(f"{text}: leave it out; no experiment is the default.")
                names = value if isinstance(value, list) else [value]
                if not override.is_sweep_override() and any(str(name) not in options for name in names):
                    near = nearest(str(value), options)
                    hint = f"Did you mean: {key}={near}? " if near else ""
                    return ConfigError(f"{text}: no such {key}. {hint}It is one of {', '.join(options) or 'none yet'}.")
        base = hydra.compose_config(
            "config", [t for t in chosen if not parse(hydra, t).is_sweep_override()], RunMode.RUN
        )
        for text in overrides:
            if text not in chosen and not text.startswith("hydra"):
                key = text.partition("=")[0].lstrip("+")
                hints.check_key(key, _plain(base), config_dir)
                hints.check_shape_of_value(key, parse(hydra, text).value(), _plain(base))
    except ConfigError as found:
        return found
    except Exception as other:
        error = other
    if any(text.startswith("hydra/launcher=joblib") for text in overrides) and "launcher/joblib" in str(error):
        return ConfigError("hydra/launcher=joblib: it is not installed; pip install 'recsysml[parallel]'.")
    return ConfigError(" ".join(str(error).split()).partition(" Config search path:")[0] or type(error).__name__)


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items() if name != "hydra"}


# --- from a tree to dataclasses


def from_hydra(config: Any, config_dir: Path | None = None, *, whole: bool = True) -> RunConfig:
    """The second step, on what Hydra composed; inside one of Hydra's jobs its own node is already cut off."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    hydra = config.hydra if "hydra" in config else HydraConfig.get()
    choices = hydra.runtime.choices
    tree = {name: node for name, node in config.items_ex(resolve=False) if name != "hydra"}
    try:
        plain = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {' '.join(str(error).split()).partition(' full_key:')[0]}.") from None
    assert isinstance(plain, dict)
    names = {group: str(choices[group]) for group in SCHEMAS if choices.get(group)}
    try:
        return from_dict({str(name): value for name, value in plain.items()}, names, config_dir, whole=whole)
    except NoSuchKey as error:
        raise hints.in_typed_words(error, hydra.overrides.task) from None


def from_dict(
    tree: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    config_dir: Path | None = None,
    *,
    whole: bool = True,
) -> RunConfig:
    """A plain tree (composed, or read from a run's config.yaml) as checked dataclasses.

    `names`: the YAML chosen for each group, for messages, in the place of the config's labels. whole: as in `compose`.
    """
    parts = dict(tree)
    if isinstance(parts.get("experiment"), dict):
        raise ConfigError("experiment: its file must have `# @package _global_` as its first line.")
    groups: dict[str, Any] = {}
    for group in SCHEMAS:
        groups[group] = _part(group, parts.pop(group, None), config_dir)
    for name, schema in (("tracker", TrackerConfig), ("sweep", SweepConfig)):
        node = parts.pop(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{name}={node}: its values are set one by one, {name}.KEY=VALUE.")
        groups[name] = _build(schema, node, name)
    config = _build(RunConfig, parts, "")
    for group, value in groups.items():
        setattr(config, group, value)
    if not whole:
        return config
    for part in (*groups.values(), config):
        if hasattr(part, "validate"):
            part.validate()
    labels = {group: getattr(groups[group], "name", groups[group].kind) for group in SCHEMAS}
    _check_pairs(config, {**labels, **(names or {})}, config_dir)
    return config


def _part(group: str, node: Any, config_dir: Path | None) -> Any:
    if not isinstance(node, dict):
        raise ConfigError(
            f"{group}: nothing is chosen. It is one of {', '.join(catalogue.choices(group, config_dir))}."
        )
    kind = node.get("kind")
    if kind not in SCHEMAS[group]:
        raise ConfigError(f"{group}.kind={kind}: it is one of {', '.join(SCHEMAS[group])}.")
    return _build(lazy.resolve(SCHEMAS[group][kind]), node, group)


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
            raise NoSuchKey(key, hint)
        expected = str(types[name])
        if "list[" in expected and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            value = [value]  # `tasks=piqa` is a list of one
        if re.search(r"\bint\b", expected) and isinstance(value, float) and value.is_integer():
            value = int(value)  # `max_steps=1e3`
        if value == "" and expected == "str | None":  # a shell's variable that is not set: not the same as none
            raise ConfigError(f"{key} is empty; null is none.")
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
    if family not in config.data.families:
        fit = fitting("data", lambda kind, schema: family in schema.families)  # type: ignore[attr-defined]
        raise ConfigError(
            f"data={names['data']} does not fit {label}, which learns from {family}; data that fit {label}: {fit}."
        )
    if config.trainer.kind not in model.trainers:
        fit = fitting("trainer", lambda kind, schema: kind in model.trainers)
        raise ConfigError(f"trainer={names['trainer']} does not fit {label}; trainers that fit {label}: {fit}.")
    loss = getattr(config.trainer, "loss", None)
    if loss in getattr(model, "refused_losses", ()):
        raise ConfigError(
            f"trainer.loss={loss} does not fit {label}, whose scores begin as products; use full, sampled or gbce."
        )
    if getattr(model, "user_graph", "none") == "friends" and not config.data.has_friends:
        fit = fitting("data", lambda kind, schema: getattr(schema, "has_friends", False))
        raise ConfigError(f"data={names['data']} has no friends for model.user_graph=friends; data that have: {fit}.")

    def judged(schema: object) -> bool:
        return schema.family == family and model.kind in getattr(schema, "judges", (model.kind,))  # type: ignore[attr-defined]

    if not judged(config.eval):
        fit = fitting("eval", lambda kind, schema: judged(schema))
        raise ConfigError(f"eval={names['eval']} does not fit {label}; evals that fit {label}: {fit}.")
    if hasattr(model, "check_eval"):
        model.check_eval(config.eval)
    if hasattr(model, "check_trainer"):
        model.check_trainer(config.trainer, int(os.environ.get("WORLD_SIZE", "1")))
    for part in (model, config.trainer, config.eval):
        if hasattr(part, "check_data"):  # what it asks of this very data
            part.check_data(config.data)


def read_run(run: Path) -> RunConfig:
    """The config a run was made with, from its config.yaml. Raises ConfigError where there is none."""
    import yaml

    file = run / "config.yaml"
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing: it says what the run was made with.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file} is damaged at line {line}: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} is damaged: it holds no config.")
    try:
        return from_dict(tree)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
