"""bpe against the `tokenizers` library, gpt2 against tiktoken's own loader, all three on round trips."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from recsysml.data import tokenizers
from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir

SHARED = data_dir()  # before a fixture hides it
TEXT = (
    "def main():\n    print('hello, world')\n\n\n    return 0\n" * 20
    + "It's the naïve café of Zoë; they've said: don't, won't, can't.\n\n  Ünïcödé — “quotes” …\n" * 20
    + "数据 データ 데이터 данные 12345 67890\t\ttabs\r\nwindows\r\n" * 10
)
ODD = [
    "",
    " ",
    "\n\n \n\t x",
    "a\u00a0b\u2003c\u3000d\u0085e\x1cf\x1fg",
    "👩‍👩‍👧‍👦 e\u0301 \u200b\ufeff\u202e \U0001d518\U0001d52b",
    "it's IT'S we'll We'LL 'tis",
    "\x00\x01\x7f\x80\xff",
    "٣٤٥ Ⅷ ½ ²",
    "<|endoftext|> <|endoftext|>",
    "a" * 5000,
    " " * 3000 + "x",
    "ไทย हिन्दी עברית العربية",
]


@pytest.fixture(scope="module")
def trained():
    return tokenizers.train_huggingface([TEXT], 400)


@pytest.fixture(scope="module")
def bpe(trained):
    return tokenizers.from_huggingface(trained)


@pytest.mark.parametrize("text", [*ODD, TEXT])
def test_bpe_gives_the_ids_of_the_library_that_trained_it(trained, bpe, text):
    assert bpe.encode(text) == trained.encode(text).ids


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn"]), max_size=60))
def test_bpe_equals_the_library_on_any_text(trained, bpe, text):
    assert bpe.encode(text) == trained.encode(text).ids


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_round_trip_and_lengths(bpe, text):
    for tokenizer in (bpe, tokenizers.bytes_tokenizer()):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_lengths[ids].sum() == len(text.encode())
        assert tokenizer.eot not in ids


def test_bytes_are_the_utf8_bytes():
    tokenizer = tokenizers.bytes_tokenizer()
    assert tokenizer.encode("né<|endoftext|>") == list("né<|endoftext|>".encode())
    assert (tokenizer.vocab_size, tokenizer.eot, tokenizer.token_lengths[tokenizer.eot]) == (257, 256, 0)
    assert tokenizer.decode([0xC3]) == "\ufffd"


def test_every_byte_is_in_a_vocabulary_of_little_text():
    tokenizer = tokenizers.train_bpe(["ab ab"], 300)
    assert {bytes([i]) for i in range(256)} <= set(tokenizer.tokens)
    assert tokenizer.vocab_size < 300  # there are no more pairs to merge
    assert len(set(tokenizer.tokens)) == len(tokenizer.tokens) == tokenizer.eot


def test_json_gives_the_same_tokenizer(bpe):
    again = tokenizers.tokenizer_from_json(json.loads(json.dumps(bpe.to_json())))
    assert again.fingerprint == bpe.fingerprint
    assert again.tokens == bpe.tokens
    assert again.encode(TEXT) == bpe.encode(TEXT)
    assert tokenizers.bytes_tokenizer().fingerprint != bpe.fingerprint


def test_training_is_the_same_in_another_process(bpe):
    code = (
        "import sys; from recsysml.data.tokenizers import train_bpe;"
        "print(train_bpe([sys.stdin.buffer.read().decode()], 400).fingerprint)"
    )
    answer = subprocess.run([sys.executable, "-c", code], input=TEXT.encode(), capture_output=True, check=True)
    assert answer.stdout.decode().strip() == bpe.fingerprint


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab'1.\n \t\u00a0\x1cé", max_size=40), max_size=4))
def test_cutting_long_texts_changes_no_token(bpe, texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "_PIECE", 3)
        together = bpe.encode_documents(texts)
    assert [ids.tolist() for ids in together] == [bpe.encode(text) for text in texts]
    assert all(ids.dtype == np.uint16 for ids in together)


def test_wrong_choices_are_named():
    with pytest.raises(ConfigError, match="choose one of bpe, gpt2, bytes"):
        tokenizers.check_tokenizer("gpt3", 4096)
    with pytest.raises(ConfigError, match="at least 257"):
        tokenizers.check_tokenizer("bpe", 256)


@pytest.fixture
def no_gpt2(monkeypatch, tmp_path):
    """No vocabulary anywhere and no network."""
    tokenizers.gpt2_tokenizer.cache_clear()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RECSYSML_DATA", raising=False)
    monkeypatch.setattr(tokenizers, "reachable", lambda url: False)
    yield tmp_path / "tiktoken"
    tokenizers.gpt2_tokenizer.cache_clear()


def test_gpt2_without_a_vocabulary_says_what_to_do(no_gpt2):
    with pytest.raises(DataError, match=r"TIKTOKEN_CACHE_DIR.*data.tokenizer=bpe") as error:
        tokenizers.check_tokenizer("gpt2", 0)
    assert "\n" not in str(error.value)
    no_gpt2.mkdir()
    damaged = no_gpt2 / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"
    damaged.write_text("#version\na b\n")
    with pytest.raises(DataError, match=r"6d1cbeee.* has a wrong checksum"):
        tokenizers.gpt2_tokenizer()
    assert damaged.exists()  # tiktoken would have deleted it


@pytest.mark.skipif(not SHARED, reason="RECSYSML_DATA is not set")
def test_gpt2_equals_tiktokens_own(no_gpt2):
    # a copy: tiktoken deletes files of its cache that it does not like
    shutil.copytree(SHARED / "tiktoken_cache", no_gpt2)
    ours = tokenizers.gpt2_tokenizer()
    parts = openai_public.gpt2()
    theirs = tiktoken.Encoding(**parts)
    assert (ours.vocab_size, ours.eot) == (50257, 50256)
    assert {token: i for i, token in enumerate(ours.tokens)} == parts["mergeable_ranks"]
    for text in [*ODD, TEXT]:
        assert ours.encode(text) == theirs.encode_ordinary(text)
    assert tokenizers.tokenizer_from_json(ours.to_json()) is ours


@pytest.mark.skipif(not SHARED, reason="RECSYSML_DATA is not set")
def test_gpt2_is_found_in_the_shared_data_and_left_alone(no_gpt2, monkeypatch):
    monkeypatch.setenv("RECSYSML_DATA", str(SHARED))
    folder = SHARED / "tiktoken_cache"
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert tokenizers.gpt2_tokenizer().vocab_size == 50257
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == before
