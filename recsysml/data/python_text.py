"""Text that every Python has: the language reference, alone (`reference`) or with docstrings (`docs`), or the library.

Everything is read with `ast`; nothing is imported or run. What differs between installations of one Python version
(installed packages, tests, build settings, parts that some systems package apart) is left out, so machines agree.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from recsysml.data.documents import Document, check_fractions, deduplicated, split_documents
from recsysml.data.prepare import load_or_prepare, prepared_folder
from recsysml.data.progress import progress
from recsysml.data.token_data import TokenData
from recsysml.data.tokenizers import check_tokenizer
from recsysml.errors import ConfigError, DataError
from recsysml.schemas.data import PythonTextConfig

PARTS = ("docs", "reference", "source")

# installed packages, tests, and what Linux distributions ship apart, patch or leave out
_LEFT_OUT = {
    *("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo"),
    *("ensurepip", "distutils", "macholib", "lib-dynload", "__pycache__"),
    *("sitecustomize.py", "usercustomize.py", "_distutils_system_mod.py"),
}
_LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-")
_TOPICS = "pydoc_data/topics.py"


def check(config: PythonTextConfig) -> None:
    """Raises ConfigError or DataError, in one line, for what `load` could not do. Reads no text."""
    if config.part not in PARTS:
        raise ConfigError(f"data.part={config.part} does not exist: choose one of {', '.join(PARTS)}")
    check_fractions(config.val_fraction, config.test_fraction)
    check_tokenizer(config.tokenizer, config.vocab_size)
    if config.part in ("docs", "reference") and not (_library() / _TOPICS).is_file():
        raise DataError(f"this Python lacks {_library() / _TOPICS}: use data=python_source, or another Python")
    if not any(_library().glob("*.py")):
        raise DataError(f"this Python has no source files in {_library()}: use data=text data.path=[...]")


def load(config: PythonTextConfig) -> TokenData:
    """The prepared data; the first time (for a Python and these settings) takes seconds."""
    check(config)
    files = _files()

    def split() -> dict[str, list[Document]]:
        return split_documents(read_documents(config.part, files), config.val_fraction, config.test_fraction)

    return load_or_prepare(config, _source(config, files), split)


def prepare(config: PythonTextConfig) -> None:
    """Nothing to fetch: the same as a first `load`."""
    load(config)


def status(config: PythonTextConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    ready = prepared_folder(config, _source(config, _files())).is_dir()
    return "prepared" if ready else "ready: made from this Python's own library at first use, offline"


def read_documents(part: str, files: dict[str, bytes] | None = None) -> list[Document]:
    """The documents in order: topics of the reference (`topics:assert`), then modules (`docs:json.decoder`)."""
    files = _files() if files is None else files
    documents = [] if part == "source" else _topics(files[_TOPICS])
    if part == "reference":
        return deduplicated(documents)
    with progress("reading the standard library", len(files)) as advance:
        for path, data in files.items():
            advance(1)
            if path == _TOPICS and part == "docs":
                continue
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            text = _docstrings(module, data) if part == "docs" else _decode(data)
            if text.strip():
                documents.append(Document(f"{part}:{module}", text))
    return deduplicated(documents)


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _files() -> dict[str, bytes]:
    """Relative path (with /) -> content of every source file, sorted by path."""
    library = _library()
    found = {}
    for folder, folders, names in os.walk(library):
        folders[:] = [name for name in folders if _wanted(name)]  # not walked into: site-packages can be large
        for name in names:
            path = Path(folder, name)
            if name.endswith(".py") and _wanted(name):
                found[path.relative_to(library).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))


def _wanted(name: str) -> bool:
    return name not in _LEFT_OUT and not name.startswith(_LEFT_OUT_PREFIXES)


def _source(config: PythonTextConfig, files: dict[str, bytes]) -> dict[str, str]:
    content = hashlib.sha256()
    for path, data in files.items():
        content.update(f"{path}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    return {"kind": config.kind, "part": config.part, "library": content.hexdigest()}


def _topics(data: bytes) -> list[Document]:
    """`topics = {"assert": "The assert statement...", ...}`, read as a literal."""
    for node in ast.parse(data).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [Document(f"topics:{name}", text.strip("\n") + "\n") for name, text in sorted(topics.items())]
    raise DataError(f"{_library() / _TOPICS} has no dictionary of topics: use data=python_source")


def _docstrings(module: str, data: bytes) -> str:
    """A module's docstrings in source order, each under the name and arguments it belongs to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in the library is no concern of the user's
        tree = ast.parse(data)
    return "\n\n".join(f"{title}\n\n{text.strip()}" for title, text in _documented(tree, module)) + "\n"


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        title = {ast.Module: "module ", ast.ClassDef: "class "}.get(type(node), "") + name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            title += f"({', '.join(argument.arg for argument in every)})"
        if text := ast.get_docstring(node):
            yield title, text
    # statements only: nothing else holds a docstring
    for field in ("body", "cases", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, None) or []:
            inner = f"{name}.{child.name}" if hasattr(child, "name") and child.name else name
            if isinstance(child, ast.ExceptHandler):
                inner = name
            yield from _documented(child, inner)


def _decode(data: bytes) -> str:
    """A source file's text in the encoding it declares, with plain line ends."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return io.TextIOWrapper(io.BytesIO(data), encoding).read()
