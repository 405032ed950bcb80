"""The library's own text: the same in every process, nothing imported, nothing that differs between installations."""

import ast
import json
import os
import pydoc_data.topics
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from recsysml.data import python_text
from recsysml.errors import ConfigError, DataError
from recsysml.schemas.data import PythonTextConfig

CONF = Path(__file__).parents[2] / "conf" / "data"


@pytest.fixture(scope="module")
def documents():
    return {document.id: document.text for document in python_text.read_documents("docs")}


def test_the_reference_is_what_pydoc_has(documents):
    for name, expected in pydoc_data.topics.topics.items():
        if f"topics:{name}" in documents:
            assert documents[f"topics:{name}"].strip("\n") == expected.strip("\n")
    assert sum(name.startswith("topics:") for name in documents) == len(
        {text.strip("\n") for text in pydoc_data.topics.topics.values()}
    )


def test_docstrings_are_those_inspect_gives(documents):
    import inspect
    import json.decoder

    text = documents["docs:json.decoder"]
    for thing in (json.decoder.JSONDecoder, json.decoder.JSONDecoder.raw_decode, json.decoder.JSONDecodeError):
        assert inspect.getdoc(thing).strip() in text
    assert "json.decoder.JSONDecoder.raw_decode(self, s, idx)" in text
    # every docstring of the file once
    tree = ast.parse(Path(json.decoder.__file__).read_text())
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    assert len(text) > sum(len(doc.strip()) for doc in found if doc)
    assert all(text.count(doc.strip()) >= 1 for doc in found if doc)


def test_what_differs_between_machines_is_left_out(documents):
    names = {name.split(":")[1].split(".")[0] for name in documents if name.startswith("docs:")}
    assert {"json", "asyncio", "collections", "ntpath", "posixpath"} <= names
    assert not names & {"test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pytest", "pip"}
    assert not [name for name in names if name.startswith(("_sysconfigdata", "config-", "site-packages"))]
    everything = {document.id for document in python_text.read_documents("source")}
    assert "source:json.decoder" in everything
    assert not [name for name in everything if ".tests." in name or "_sysconfigdata" in name]


def test_documents_are_distinct_sorted_and_about_2_mb(documents):
    assert len(set(documents.values())) == len(documents)
    modules = [name for name in documents if name.startswith("docs:")]
    assert len(modules) > 300
    assert 1_500_000 < sum(len(text.encode()) for text in documents.values()) < 4_000_000


def test_source_is_what_the_interpreter_reads():
    library = Path(sysconfig.get_path("stdlib"))
    for document in python_text.read_documents("source")[::60]:
        path = library / (document.id.split(":")[1].replace(".", "/") + ".py")
        if path.is_file():
            assert ast.dump(ast.parse(document.text)) == ast.dump(ast.parse(path.read_bytes()))


def test_nothing_is_imported_and_other_processes_agree(tmp_path):
    code = (
        "import json, sys; from recsysml.data import python_text; from recsysml.schemas.data import PythonTextConfig;"
        "before = set(sys.modules);"
        "data = python_text.load(PythonTextConfig(name='python_docs'));"
        "print(json.dumps([data.fingerprint, data.sizes, data.tokenizer.fingerprint,"
        " [name for name in ('torch', 'antigravity', 'this', 'pydoc_data.topics') if name in sys.modules]]))"
    )
    answers = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(tmp_path / seed)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert answers[0][3] == []
    names = ["train.bin", "val.bin", "test.bin", "train.units.npy", "val.ids.json", "tokenizer.json", "meta.json"]
    for name in names:
        (one,), (two,) = (list((tmp_path / seed).glob(f"recsysml/tokens/python_docs-*/{name}")) for seed in "12")
        assert one.read_bytes() == two.read_bytes()


def test_configs_list_every_field_and_pass_their_check():
    for name in ("python_docs", "python_source"):
        content = (CONF / f"{name}.yaml").read_text()
        assert content.startswith("# ")
        values = yaml.safe_load(content)
        config = PythonTextConfig(**values)
        assert vars(config) == values
        assert values["name"] == name
        python_text.check(config)


def test_wrong_settings_and_a_stripped_python_are_said_in_one_line(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"data.part=doc does not exist: choose one of docs, reference, source"):
        python_text.check(PythonTextConfig(part="doc"))
    with pytest.raises(ConfigError, match=r"data.vocab_size=10"):
        python_text.check(PythonTextConfig(vocab_size=10))
    monkeypatch.setattr(python_text, "_library", lambda: tmp_path)
    with pytest.raises(DataError, match=r"lacks .*topics.py: use data=python_source"):
        python_text.check(PythonTextConfig())
