"""Any text files as a data set: paths, folders, globs and .jsonl, each also gzipped.

`tinyshakespeare` and `wikitext` are this with known files: looked for in the working directory, then in
`$RECSYSML_DATA`, then among the downloads of `recsysml data prepare`.
"""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from recsysml.data.documents import Document, check_fractions, split_documents
from recsysml.data.download import download
from recsysml.data.prepare import decode_text, load_or_prepare, prepared_folder
from recsysml.data.token_data import TokenData
from recsysml.data.tokenizers import check_tokenizer
from recsysml.errors import ConfigError, DataError
from recsysml.files import cache_dir, data_dir, sha256
from recsysml.schemas.data import TextConfig

# what a folder is searched for
_SUFFIXES = (".txt", ".md", ".jsonl", ".txt.gz", ".md.gz", ".jsonl.gz")


class Source(NamedTuple):
    """One file: `label` names it in document ids, the same wherever the file lies."""

    label: str
    path: Path


def check(config: TextConfig) -> None:
    """Raises ConfigError or DataError, in one line, when a file is missing or has a wrong checksum."""
    if not config.path or not all(config.path):  # `data.path=` is a list of one empty text
        raise ConfigError("data.path is empty: give files, folders or globs, such as data.path='[notes/*.txt]'")
    check_fractions(
        0.0 if config.val_path else config.val_fraction,
        0.0 if config.test_path else config.test_fraction,
        needs_val=not config.val_path,
    )
    check_tokenizer(config.tokenizer, config.vocab_size)
    split_of: dict[Path, str] = {}
    for name, sources in find(config).items():
        for source in sources:
            other = split_of.setdefault(source.path.resolve(), name)
            if other != name:
                keys = {"train": "data.path", "val": "data.val_path", "test": "data.test_path"}
                raise ConfigError(
                    f"{keys[name]}: {source.path} belongs to {keys[other]} as well; a model would be judged by a text"
                    " that chose or taught it"
                )
            expected = config.sha256.get(source.label)
            if expected and sha256(source.path) != expected:
                mend = f"run `recsysml data prepare {config.name}`" if source.label in config.urls else "replace it"
                if not source.path.is_relative_to(cache_dir()):  # only our own download is written over
                    mend = f"delete it, then {mend}"
                raise DataError(f"{source.path} has a wrong checksum: {mend}")


def load(config: TextConfig) -> TokenData:
    """The prepared data. Documents are whole files, or the lines of a .jsonl."""
    check(config)
    sources = find(config)

    def split() -> dict[str, list[Document]]:
        documents = {name: _read(found, config.text_key) for name, found in sources.items()}
        empty = [name for name in documents if not documents[name]]
        if empty:
            raise DataError(f"data.{'path' if empty[0] == 'train' else empty[0] + '_path'} holds no text")
        val_fraction = 0.0 if "val" in documents else config.val_fraction
        test_fraction = 0.0 if "test" in documents else config.test_fraction
        cut = split_documents(documents["train"], val_fraction, test_fraction)
        splits = documents | cut
        return {name: splits[name] for name in ("train", "val", "test") if name in splits}

    return load_or_prepare(config, _content(config, sources), split)


def prepare(config: TextConfig) -> None:
    """Fetch what is missing and has an address, verify it, tokenize. Raises DataError at once without network."""
    for label, url in config.urls.items():
        found = _locate(label)
        expected = config.sha256.get(label)
        downloaded = cache_dir() / "text" / label
        if not found or (found[0].path == downloaded and expected and sha256(downloaded) != expected):
            download(url, downloaded, expected)
    load(config)


def status(config: TextConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    sources = find(config)
    size = sum(source.path.stat().st_size for found in sources.values() for source in found)
    ready = prepared_folder(config, _content(config, sources)).is_dir()
    return f"{'prepared' if ready else 'ready'}: {sum(map(len, sources.values()))} file(s), {size / 1e6:.1f} MB"


def find(config: TextConfig) -> dict[str, list[Source]]:
    """The files of each split that has its own, sorted by label. Raises DataError naming the first that is missing."""
    wanted = {"train": config.path, "val": config.val_path, "test": config.test_path}
    return {name: _find_all(config, patterns) for name, patterns in wanted.items() if patterns}


def _find_all(config: TextConfig, patterns: list[str]) -> list[Source]:
    found: dict[str, Source] = {}
    for pattern in patterns:
        sources = _locate(pattern)
        if not sources:
            raise DataError(_missing(config, pattern))
        for label, path in sources:
            if label in found and not found[label].path.samefile(path):  # two folders that hold files of one name
                label = pattern if label == Path(pattern).name else f"{pattern.rstrip('/')}/{label}"
            found[label] = Source(label, path)
    return [found[label] for label in sorted(found)]


def _locate(pattern: str) -> list[Source]:
    """The files a path, folder or glob stands for, in the first place that has any."""
    shared = data_dir()
    for root in (Path(), *([shared] if shared else []), cache_dir() / "text"):
        whole = root / Path(pattern).expanduser()
        if whole.is_file():
            return [Source(whole.name if Path(pattern).is_absolute() else pattern, whole)]
        if whole.is_dir():
            base, paths = whole, [path for path in whole.rglob("*") if path.name.endswith(_SUFFIXES)]
        else:
            fixed = Path(pattern).expanduser().parts
            stop = next((i for i, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
            base = root.joinpath(*fixed[:stop])
            paths = [Path(path) for path in glob.glob(str(whole), recursive=True)]
        sources = [Source(path.relative_to(base).as_posix(), path) for path in sorted(paths) if path.is_file()]
        if sources:
            return sources
    return []


def _missing(config: TextConfig, pattern: str) -> str:
    if pattern in config.urls:
        return (
            f"{config.name}: {pattern} is missing: run `recsysml data prepare {config.name}`, "
            f"or set RECSYSML_DATA to the folder that holds it"
        )
    shared = data_dir()
    places = f"the working directory {'and ' + str(shared) if shared else '(RECSYSML_DATA is not set)'}"
    if Path(pattern).is_absolute():
        places = "the file system"
    return f"{config.name}: no text file at {pattern!r} in {places} (folders are searched for {', '.join(_SUFFIXES)})"


def _content(config: TextConfig, sources: dict[str, list[Source]]) -> dict[str, object]:
    hashes = {name: [(source.label, sha256(source.path)) for source in found] for name, found in sources.items()}
    return {"kind": config.kind, "text_key": config.text_key, "files": hashes}


def _read(sources: list[Source], text_key: str) -> list[Document]:
    """Documents that hold more than spaces."""
    documents: list[Document] = []
    for label, path in sources:
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        text = decode_text(data, str(path))
        plain = path.name.removesuffix(".gz")
        documents.extend(_lines(label, path, text, text_key) if plain.endswith(".jsonl") else [Document(label, text)])
    return [document for document in documents if document.text.strip()]


def _lines(label: str, path: Path, text: str, text_key: str) -> Iterator[Document]:
    # not splitlines: JSON strings may hold other line separators as they are
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not JSON: {error.msg}") from error
        except RecursionError as error:
            raise DataError(f"{path} line {number} is nested too deeply") from error
        if isinstance(row, dict) and not isinstance(row.get(text_key, ""), str):
            raise DataError(f"{path} line {number}: what stands under {text_key!r} is no text: {row[text_key]!r:.60}")
        if not isinstance(row, dict) or not isinstance(row.get(text_key), str):
            keys = f" (it has {', '.join(sorted(row))})" if isinstance(row, dict) else ""
            raise DataError(f"{path} line {number} has no text under {text_key!r}{keys}: set data.text_key")
        yield Document(f"{label}:{number}", row[text_key])
