"""Files to token data: bytes, units, cache, damage, races, and what is said when something is missing."""

import gzip
import hashlib
import http.server
import json
import logging
import multiprocessing
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsysml.data import download, prepare, text
from recsysml.data.documents import Document
from recsysml.data.tokenizers import bytes_tokenizer, train_bpe
from recsysml.errors import ConfigError, DataError
from recsysml.files import cache_dir, data_dir
from recsysml.schemas.data import TextConfig

SHARED = data_dir()
CONF = Path(__file__).parents[2] / "conf" / "data"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RECSYSML_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i:02d}.txt").write_text(f"Note {i}: naïve café\n" * (20 + i % 5), encoding="utf-8")
    return folder


def config(folder, **changes):
    return TextConfig(**({"path": [str(folder)], "tokenizer": "bytes", "val_fraction": 0.2} | changes))


def decoded(data, name):
    split = data.splits[name]
    return [data.tokenizer.decode(part[1:]) for part in np.split(split.tokens, document_starts(data, name))[1:]]


def document_starts(data, name):
    return np.flatnonzero(data.splits[name].tokens == data.tokenizer.eot)


def test_every_document_is_kept_in_order_after_an_end_of_text(notes):
    data = text.load(config(notes))
    texts = [document for name in data.splits for document in decoded(data, name)]
    assert sorted(texts) == sorted(path.read_text(encoding="utf-8") for path in notes.iterdir())
    for name, split in data.splits.items():
        assert split.tokens[0] == data.tokenizer.eot
        assert split.n_bytes == sum(len(document.encode()) for document in decoded(data, name))
        assert [unit.split("#")[0] for unit in split.unit_ids] == sorted(unit.split("#")[0] for unit in split.unit_ids)
        assert not split.tokens.flags.writeable
    assert data.sizes == {name: len(split.tokens) for name, split in data.splits.items()}


def test_tokenizers_agree_on_bytes_units_and_fingerprint(notes):
    (notes / "long.txt").write_text("".join(f"line {i} of many\n\n  more\n" for i in range(900)))
    loaded = [text.load(config(notes, tokenizer=name, vocab_size=300)) for name in ("bytes", "bpe")]
    assert loaded[0].fingerprint == loaded[1].fingerprint
    for name in ("train", "val", "test"):
        one, two = (data.splits[name] for data in loaded)
        assert one.n_bytes == two.n_bytes == one.unit_bytes.sum() == loaded[1].tokenizer.token_lengths[two.tokens].sum()
        assert one.unit_ids == two.unit_ids
        assert one.unit_bytes.tolist() == two.unit_bytes.tolist()
    assert len(loaded[1].splits["train"].tokens) < len(loaded[0].splits["train"].tokens)
    assert any(unit == "long.txt#1" for unit in loaded[0].splits["train"].unit_ids)


TRAINED = train_bpe(["the cat\nthe dog\n  the end\n" * 50], 290)


@settings(max_examples=60, deadline=None)
@example(["aaaaaaaaaaaédo"])
@given(st.lists(st.text(alphabet="the cadog\n é", min_size=1, max_size=60), min_size=1, max_size=5))
def test_units_start_where_brute_force_says(texts):
    documents = [Document(str(i), value) for i, value in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsysml.data.documents.UNIT_BYTES", 7)
        for tokenizer in (TRAINED, bytes_tokenizer()):
            block = prepare.encode_block(tokenizer, documents)
            position, positions = 0, []
            for token in block.tokens:
                positions.append(position)
                position += tokenizer.token_lengths[token]
            starts = [sum(block.unit_bytes[:i]) for i in range(len(block.unit_bytes))]
            # a unit that begins within the last token has none of its own
            ends = [*enumerate(positions), (len(positions), position)]
            expected = [next(i for i, where in ends if where >= start) for start in starts]
            assert block.unit_starts.tolist() == expected
            assert block.unit_bytes.sum() == position == sum(len(value.encode()) for value in texts)
            firsts = [i for i, unit in enumerate(block.unit_ids) if unit.endswith("#0")]
            assert all(block.tokens[block.unit_starts[i]] == tokenizer.eot for i in firsts)
            assert len(firsts) == len(texts)


def test_a_second_load_reads_the_cache(notes, monkeypatch):
    first = text.load(config(notes))
    monkeypatch.setattr(prepare, "write_prepared", None)
    second = text.load(config(notes))
    assert isinstance(second.splits["train"].tokens, np.memmap)
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.splits["val"].tokens, first.splits["val"].tokens)


def test_it_is_said_what_is_at_work_and_where_it_is_kept(notes, caplog):
    settings = config(notes)
    with caplog.at_level(logging.INFO, logger="recsysml"):
        text.load(settings)
        text.load(settings)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("reading and tokenizing the text")
    assert second.startswith("opening the tokens")
    folder = first.rpartition(" ")[2]
    assert second.endswith(folder) and Path(folder, "meta.json").is_file()


def test_other_text_or_settings_are_another_cache_entry(notes):
    base = text.load(config(notes)).fingerprint
    assert text.load(config(notes, val_fraction=0.4)).fingerprint != base
    (notes / "00.txt").write_text("changed\n")
    assert text.load(config(notes)).fingerprint != base
    assert len([path for path in (cache_dir() / "tokens").iterdir() if path.is_dir()]) == 3


@pytest.mark.parametrize("file", ["train.bin", "val.units.npy", "test.ids.json", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_a_damaged_cache_is_named_and_made_again(notes, caplog, file, how):
    before = text.load(config(notes))
    tokens = np.array(before.splits["train"].tokens)
    (folder,) = (path for path in (cache_dir() / "tokens").iterdir() if path.is_dir())
    data = (folder / file).read_bytes()
    if how == "gone":
        (folder / file).unlink()
    else:
        middle = len(data) // 2
        (folder / file).write_bytes(data[:middle] + (bytes([data[middle] ^ 1]) + data[middle + 1 :]) * (how != "cut"))
    if (file, how) == ("meta.json", "changed"):
        (folder / file).write_bytes(data.replace(b'"train.bin": "', b'"train.bin": "0'))
    with caplog.at_level(logging.WARNING, logger="recsysml"):
        after = text.load(config(notes))
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "is damaged" in said and "preparing it again" in said
    assert file in said or file == "meta.json"
    assert np.array_equal(after.splits["train"].tokens, tokens)
    caplog.clear()
    text.load(config(notes))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def _load_at_once(barrier, settings, results):
    barrier.wait()
    data = text.load(settings)
    results.put((data.fingerprint, data.sizes, int(data.splits["train"].tokens.astype(np.int64).sum())))


@pytest.mark.parametrize("locked", [True, False])
def test_two_processes_at_once_give_one_good_folder(notes, locked, monkeypatch):
    if not locked:  # as on a system without file locks
        monkeypatch.setattr(prepare, "fcntl", None)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_load_at_once, args=(barrier, config(notes), results)) for _ in range(3)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert all(answer == answers[0] for answer in answers)
    entries = [path for path in (cache_dir() / "tokens").iterdir() if path.is_dir()]
    assert len(entries) == 1  # no temporary folder is left
    prepare.read_prepared(entries[0])


def test_a_failed_preparation_leaves_nothing(notes, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_meta", fail)
    with pytest.raises(KeyboardInterrupt):
        text.load(config(notes))
    assert not [path for path in (cache_dir() / "tokens").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_said_so(notes, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot write the cache"):
        text.load(config(notes))


def test_files_globs_jsonl_and_gzip(tmp_path):
    folder = tmp_path / "mixed" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.md").write_text("# one\n")
    (folder / "b.txt.gz").write_bytes(gzip.compress("\ufefftwo\r\n".encode()))
    (folder / "skipped.bin").write_bytes(b"\xff")
    (folder / "c.jsonl").write_text("".join(json.dumps({"body": f"row\u2028{i}"}) + "\n" for i in range(4)) + "\n")
    found = text.find(config("mixed", path=["mixed/**/*.md", "mixed"]))["train"]
    assert [source.label for source in found] == ["deep/a.md", "deep/b.txt.gz", "deep/c.jsonl"]
    data = text.load(config("mixed", text_key="body", test_fraction=0.0))
    texts = [document for name in data.splits for document in decoded(data, name)]
    assert sorted(texts) == sorted(["# one\n", "two\r\n", *(f"row\u2028{i}" for i in range(4))])


def test_files_of_one_name_in_several_folders_are_all_read(tmp_path):
    for folder in ("one", "two", "three"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(f"{folder} a\n" * 9)
        (tmp_path / folder / "deep" / "b.txt").write_text(f"{folder} b\n" * 9)
    found = text.find(config("", path=["one", "two/", str(tmp_path / "three" / "*.txt"), "one"]))["train"]
    three = f"{tmp_path / 'three' / '*.txt'}/a.txt"
    assert sorted(source.label for source in found) == sorted(
        ["a.txt", "deep/b.txt", "two/a.txt", "two/deep/b.txt", three]
    )
    files = [str(tmp_path / folder / "a.txt") for folder in ("one", "two", "three")]
    assert [source.label for source in text.find(config("", path=files))["train"]] == sorted(["a.txt", *files[1:]])
    data = text.load(config("", path=["one", "two", "three"], test_fraction=0.0))
    texts = [document for name in data.splits for document in decoded(data, name)]
    assert sorted(texts) == sorted(f"{folder} {name}\n" * 9 for folder in ("one", "two", "three") for name in "ab")


def test_files_come_in_the_order_of_their_names_whatever_the_file_system_says(tmp_path, monkeypatch):
    for name in "cab":
        (tmp_path / f"{name}.txt").write_text(name)
    for pattern in (str(tmp_path), str(tmp_path / "*.txt")):
        for listing in (["c", "a", "b"], ["b", "c", "a"]):
            paths = [tmp_path / f"{name}.txt" for name in listing]
            monkeypatch.setattr(Path, "rglob", lambda folder, what, paths=paths: iter(paths))
            monkeypatch.setattr(text.glob, "glob", lambda what, recursive, paths=paths: [str(path) for path in paths])
            assert [source.label for source in text.find(config(pattern))["train"]] == ["a.txt", "b.txt", "c.txt"]


def test_files_of_their_own_make_the_splits(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text\n" * 9)
    data = text.load(config("a.txt", val_path=["b.txt"], test_path=["c.txt"], val_fraction=0.0, test_fraction=0.0))
    assert [decoded(data, name)[0][0] for name in ("train", "val", "test")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_path": ["notes/03.txt"]}, r"data.val_path: notes/03.txt belongs to data.path as well"),
        (
            {"path": ["notes/0*"], "val_path": ["notes/1*"], "test_path": ["notes/[12]1.txt"]},
            r"data.test_path: notes/11",
        ),
        ({"path": []}, "data.path is empty"),
        ({"path": ["nowhere/*.txt"]}, r"no text file at 'nowhere/\*.txt'"),
        ({"tokenizer": "word"}, "choose one of"),
        ({"val_fraction": 0.0}, "data.val_fraction"),
    ],
)
def test_check_refuses_in_one_line(notes, changes, words):
    with pytest.raises((ConfigError, DataError), match=words) as error:
        text.check(config(notes, **changes))
    assert "\n" not in str(error.value)


def test_bad_rows_and_bytes_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"txt": 1}\n')
    with pytest.raises(DataError, match=r"a.jsonl line 2 has no text under 'text' \(it has txt\)"):
        text.load(config("a.jsonl"))
    (tmp_path / "a.jsonl").write_text('{"text": 3}\n')
    with pytest.raises(DataError, match=r"a.jsonl line 1: what stands under 'text' is no text: 3$"):
        text.load(config("a.jsonl"))
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"a.jsonl line 1 is nested too deeply"):
        text.load(config("a.jsonl"))
    damaged = bytearray(gzip.compress(b"some text that is long enough to be damaged" * 9))
    damaged[15] ^= 0xFF
    (tmp_path / "d.txt.gz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"d.txt.gz cannot be read"):
        text.load(config("d.txt.gz"))
    (tmp_path / "b.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"b.jsonl line 1 is not JSON"):
        text.load(config("b.jsonl"))
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"c.txt is not UTF-8 text \(byte 3\)"):
        text.load(config("c.txt"))


def shakespeare(**changes):
    return TextConfig(**(yaml.safe_load((CONF / "tinyshakespeare.yaml").read_text()) | changes))


def test_a_missing_file_names_the_command_that_mends_it(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"tinyshakespeare/input.txt is missing: run `recsysml data prepare tinysh"):
        text.check(shakespeare())
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text("not by him")
    with pytest.raises(DataError, match=r"input.txt has a wrong checksum: delete it, then run `recsysml data prepare"):
        text.check(shakespeare())
    wikitext = TextConfig(**yaml.safe_load((CONF / "wikitext.yaml").read_text()))
    with pytest.raises(DataError, match=r"wikitext-2/train.txt is missing: run `recsysml data prepare wikitext`"):
        text.check(wikitext)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_prepare_downloads_and_verifies(server, monkeypatch):
    folder, address = server
    (folder / "f.txt").write_text("some text\n" * 40)
    good = hashlib.sha256((folder / "f.txt").read_bytes()).hexdigest()
    urls = {"set/f.txt": f"{address}/f.txt"}
    changes = {"path": ["set/f.txt"], "urls": urls, "name": "mine", "sha256": {"set/f.txt": good}}
    text.prepare(config("", **changes))
    target = cache_dir() / "text" / "set" / "f.txt"
    assert target.read_bytes() == (folder / "f.txt").read_bytes()
    assert text.status(config("", **changes)).startswith("prepared: 1 file")
    target.write_text("damaged")
    with pytest.raises(DataError, match=r"f.txt has a wrong checksum: run `recsysml data prepare mine`"):
        text.check(config("", **changes))
    text.prepare(config("", **changes))  # which the message promised to help
    assert target.read_bytes() == (folder / "f.txt").read_bytes()
    target.unlink()
    (folder / "f.txt").write_text("another text")
    with pytest.raises(DataError, match=rf"{address}/f.txt has the checksum .*expected {good}"):
        text.prepare(config("", **changes))
    assert list(target.parent.iterdir()) == []
    with pytest.raises(DataError, match=r"fetching .* failed: .*404"):
        download.download(f"{address}/none.txt", target, None)


def test_no_network_fails_at_once(monkeypatch):
    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    with pytest.raises(DataError, match=r"no network: cannot fetch https://127.0.0.1:9/input.txt"):
        download.download("https://127.0.0.1:9/input.txt", cache_dir() / "x", None)
    ended = threading.Event()

    def never_answers(*args, **kwargs):
        ended.wait(30)
        raise OSError

    monkeypatch.setattr(download.socket, "create_connection", never_answers)
    start = time.perf_counter()
    assert not download.reachable("https://example.invalid/", seconds=0.2)
    assert time.perf_counter() - start < 2
    ended.set()


@pytest.mark.skipif(not SHARED, reason="RECSYSML_DATA is not set")
def test_tinyshakespeare_has_the_known_number_of_gpt2_tokens(monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYSML_DATA", str(SHARED))
    shutil.copytree(SHARED / "tiktoken_cache", tmp_path / "tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    data = text.load(shakespeare(tokenizer="gpt2"))
    # one end-of-text more in each split than the published figures
    assert data.sizes == {"train": 301_966 + 1, "val": 36_059 + 1}
    assert data.splits["train"].n_bytes + data.splits["val"].n_bytes == 1_115_394
    assert data.splits["train"].tokens.dtype == np.uint16


@pytest.mark.parametrize("name", ["text", "tinyshakespeare", "wikitext"])
def test_configs_list_every_field(name):
    content = (CONF / f"{name}.yaml").read_text()
    assert content.startswith("# ")
    assert vars(TextConfig(**yaml.safe_load(content))) == yaml.safe_load(content)
