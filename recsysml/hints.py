"""What a mistyped word was meant to be: the shape of an override, and the keys there are. Nothing of Hydra in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsysml import catalogue
from recsysml.errors import ConfigError, NoSuchKey
from recsysml.schemas import SCHEMAS
from recsysml.schemas.checks import nearest

# what other programs call our keys
OTHER_WORDS = {
    "learning_rate": "lr", "steps": "max_steps", "max_iters": "max_steps", "iterations": "max_steps",
    "batch": "batch_size", "gradient_accumulation_steps": "grad_accum", "accumulate": "grad_accum",
    "warmup": "warmup_steps", "warmup_iters": "warmup_steps", "block_size": "context_length",
    "max_length": "context_length", "n_embd": "d_model", "hidden_size": "d_model", "dim": "d_model",
    "layers": "n_layers", "n_layer": "n_layers", "num_layers": "n_layers", "heads": "n_heads", "n_head": "n_heads",
    "num_heads": "n_heads", "optim": "optimizer", "dtype": "precision", "gpu": "device",
    "num_workers": "loader_workers",
    "clip": "grad_clip", "max_grad_norm": "grad_clip", "wd": "weight_decay", "eval_interval": "eval_every",
    "log_interval": "log_every", "num_threads": "threads", "output_dir": "outputs", "wandb": "tracker.mode",
}  # fmt: skip


def check_shape(text: str, config_dir: Path | None, sweep: bool) -> None:
    key, equals, value = text.partition("=")
    if text.startswith("-"):
        plain = key.lstrip("-").replace("-", "_")
        option = nearest(key, ["--multirun", "--resume", "--config-dir", "--rerun", "--trust", "--help", "--verbose"])
        if equals:
            raise ConfigError(f"{text}: overrides are written without dashes. Did you mean: {plain}={value}?")
        raise ConfigError(f"{key}: no such option. " + (f"Did you mean: {option}?" if option else "See -h."))
    if text.startswith("~"):
        raise ConfigError(f"{text}: keys cannot be deleted; set another value.")
    if not equals:
        raise ConfigError(f"{text}: an override is written key=value. {_bare_word_hint(text, config_dir)}".rstrip())
    plain = key.strip().lstrip("+")
    if not plain:
        raise ConfigError(f"{text}: an override is written key=value; the key is missing.")
    if "@" in plain:
        raise ConfigError(f"{text}: there is no such key. Did you mean: {plain.partition('@')[0]}={value}?")
    if plain in catalogue.groups(config_dir) and (value.lstrip().startswith("{") or value.strip() == "[]"):
        # merged into what is there it would change nothing, or what nobody sees
        raise ConfigError(f"{text}: {plain} is chosen by a name; its values are set one by one, {plain}.KEY=VALUE.")
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
        return f"{word}= takes one of {', '.join(catalogue.choices(word, config_dir))}."
    if word in names or nearest(word, names):
        name = word if word in names else nearest(word, names)
        return f"Did you mean: {names[str(name)]}={name}?"
    key = nearest(word, catalogue.keys(config_dir))
    return f"Did you mean: {key}=...?" if key else ""


def check_key(key: str, tree: Mapping[str, Any], config_dir: Path | None) -> None:
    """Raise ConfigError with the nearest right word when `key` is not in the composed config."""
    groups = catalogue.groups(config_dir)
    known = _leaves(tree)
    branches = {name.rpartition(".")[0] for name in known} - {""}
    if key in known or key in branches or key in groups or any(key.startswith(f"{name}.") for name in _tables(tree)):
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
    raise NoSuchKey(key, hint)


def in_typed_words(error: NoSuchKey, typed: Sequence[str]) -> ConfigError:
    """The error, where its key was typed; else, as an experiment set it, what was typed that does not go with that."""
    words = dict(text.lstrip("+").partition("=")[::2] for text in typed)
    if error.key in words or "experiment" not in words:
        return error
    group = error.key.partition(".")[0]
    experiment, chosen = f"experiment={words['experiment']}", f"{group}={words.get(group)}"
    if group in words:
        return ConfigError(f"{chosen} does not fit {experiment}, which sets {error.key}: leave one of them out.")
    return ConfigError(f"{experiment} sets {error.key}, which the {group} that was chosen does not have.")


def check_shape_of_value(key: str, value: Any, tree: Mapping[str, Any]) -> None:
    """Raise ConfigError when a list or a table is given where there is the other one, or a single value."""
    there = at(tree, key)
    kind = list if isinstance(there, list) else dict if isinstance(there, dict) else None
    if isinstance(value, list | dict) and not isinstance(value, kind or ()):
        wanted = {list: "a list, written [a,b]", dict: "a table, written {a: b}", None: "a single value"}[kind]
        raise ConfigError(f"{key}: it must be {wanted}.")


def at(tree: Mapping[str, Any], key: str) -> Any:
    """The plain value at a dotted key; None when it is not there."""
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def _tables(tree: Mapping[str, Any]) -> list[str]:
    """Keys below the groups whose value is a table of the user's own keys (data.urls)."""
    return [
        f"{group}.{name}"
        for group in SCHEMAS
        for name, value in (tree.get(group) or {}).items()
        if isinstance(value, dict)
    ]
