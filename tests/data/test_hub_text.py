"""Streaming into shards, on a local folder that `datasets` streams as it streams the hub."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from recsysml.data import hub_text
from recsysml.errors import DataError
from recsysml.files import cache_dir
from recsysml.schemas.data import HubTextConfig

pytest.importorskip("datasets")
ROWS = [f"Document {i} says {i * i}.\n" * (3 + i % 9) for i in range(500)]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_text, "_DOCUMENTS", 16)


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for part in range(2):
        rows = ROWS[part * 250 : part * 250 + 250]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return HubTextConfig(
        name="hub",
        hub_name=str(folder),
        hub_subset=None,
        tokenizer="bytes",
        val_fraction=0.1,
        test_fraction=0.1,
        max_tokens=10**9,
        shard_tokens=5000,
    )


def contents():
    (folder,) = (path for path in (cache_dir() / "tokens").iterdir() if path.is_dir())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_row_arrives_once_in_order(config):
    data = hub_text.load(config)
    seen = {}
    for split in data.splits.values():
        starts = np.flatnonzero(split.tokens == data.tokenizer.eot)
        rows = [int(unit[4:].split("#")[0]) for unit in split.unit_ids if unit.endswith("#0")]
        assert rows == sorted(rows)
        assert split.n_bytes == split.unit_bytes.sum()
        for row, start, end in zip(rows, starts, [*starts[1:], len(split.tokens)], strict=True):
            seen[row] = data.tokenizer.decode(split.tokens[start + 1 : end])
    assert [seen[row] for row in range(500)] == ROWS
    assert [path.name for path in (cache_dir() / "tokens").iterdir() if "partial" in path.name] == []


def test_max_tokens_ends_the_stream(config):
    config.max_tokens = 30_000
    data = hub_text.load(config)
    assert 30_000 <= sum(data.sizes.values()) < 30_000 + 16 * 300


def test_once_prepared_it_is_offline(config, monkeypatch):
    first = hub_text.load(config)
    monkeypatch.setattr(hub_text, "_stream", None)
    monkeypatch.setattr(hub_text, "_check_hub", None)
    hub_text.check(config)
    assert hub_text.load(config).fingerprint == first.fingerprint
    assert hub_text.status(config).startswith("prepared: ")


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_stopped_stream_goes_on_to_the_same_result(config, monkeypatch, tokenizer):
    config.tokenizer, config.vocab_size = tokenizer, 300
    config.shard_tokens = 2000
    hub_text.load(config)
    whole = contents()
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"] + "2")

    read = []
    document = hub_text._document

    def breaks(settings, row, number):
        read.append(number)
        if number == 333:
            raise ConnectionError("the line went dead")
        return document(settings, row, number)

    monkeypatch.setattr(hub_text, "_document", breaks)
    with pytest.raises(ConnectionError):
        hub_text._fetch(config, cache_dir(), hub_text._partial(hub_text._folder(config)))
    assert "tokens: `recsysml data prepare hub` goes on" in hub_text.status(config)
    read.clear()
    monkeypatch.setattr(hub_text, "_document", lambda settings, row, i: (read.append(i), document(settings, row, i))[1])
    hub_text.load(config)
    assert min(read) > 200  # the first rows were not read again
    assert contents() == whole


def test_a_killed_process_goes_on_to_the_same_result(config):
    hub_text.load(config)
    whole = contents()
    code = f"""
import os, signal
from recsysml.data import hub_text
from recsysml.schemas.data import HubTextConfig
hub_text._DOCUMENTS = 16
written = hub_text.write_split
def kill(folder, name, *rest):
    written(folder, name, *rest)
    if name == "train-00003":
        os.kill(os.getpid(), signal.SIGKILL)
hub_text.write_split = kill
hub_text.load(HubTextConfig(**{vars(config)!r}))
"""
    environment = os.environ | {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"] + "2"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
        state = hub_text._read_state(hub_text._partial(hub_text._folder(config)))
        assert len(state.shards) == 3
        hub_text.load(config)
        assert contents() == whole


def test_a_damaged_shard_is_named_and_the_stream_begun_again(config, monkeypatch, caplog):
    hub_text.load(config)
    whole = contents()
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"] + "2")
    with monkeypatch.context() as patch:

        def stop(*arguments):
            raise KeyboardInterrupt

        patch.setattr(hub_text, "write_meta", stop)
        with pytest.raises(KeyboardInterrupt):
            hub_text.load(config)
    shard = hub_text._partial(hub_text._folder(config)) / "train-00001.bin"
    data = shard.read_bytes()
    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with caplog.at_level(logging.WARNING, logger="recsysml"):
        hub_text.load(config)
    assert "train-00001.bin is damaged" in caplog.text
    assert contents() == whole


def test_a_wrong_key_names_those_there_are(config):
    config.text_key = "content"
    with pytest.raises(DataError, match=r"no text under 'content' \(it has text\)"):
        hub_text.load(config)


def test_without_network_the_check_says_what_to_run(monkeypatch):
    path = Path(__file__).parents[2] / "conf" / "data" / "fineweb_edu.yaml"
    values = yaml.safe_load(path.read_text())
    config = HubTextConfig(**values)
    assert vars(config) == values
    config.tokenizer = "bytes"
    monkeypatch.setattr(hub_text, "reachable", lambda url: False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    with pytest.raises(DataError, match="hub cannot be reached: run `recsysml data prepare fineweb_edu`") as error:
        hub_text.check(config)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        hub_text.check(config)
