"""A byte-level BPE as the files `transformers.AutoTokenizer` reads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Protocol

from recsysml.files import write_json

END_OF_TEXT = "<|endoftext|>"


class ByteLevelTokenizer(Protocol):
    """What is needed: `tokens[i]` are the bytes of id i, in order of merge priority; `eot` is the last id."""

    tokens: list[bytes]
    eot: int
    vocab_size: int


def write_tokenizer(tokenizer: ByteLevelTokenizer, folder: Path, context_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json. The tokenizer must cut text as GPT-2's pattern does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    characters = _character_of_byte()

    def written(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    vocabulary = {written(token): i for i, token in enumerate(tokenizer.tokens)}
    merges = [(written(left), written(right)) for left, right in merge_list(tokenizer.tokens)]
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    assert fast.token_to_id(END_OF_TEXT) == tokenizer.eot
    folder.mkdir(parents=True, exist_ok=True)
    fast.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": END_OF_TEXT for role in ("bos", "eos", "unk")},
    }
    write_json(folder / "tokenizer_config.json", settings)


def merge_list(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token of more than one byte, in order.

    It is the pair left when the token's bytes are merged as far as the tokens before it allow.
    """
    ranks = {token: i for i, token in enumerate(tokens)}
    merges = []
    for i, token in enumerate(tokens):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            rank, place = min(
                (ranks.get(left + right, len(tokens)), at) for at, (left, right) in enumerate(pairwise(parts))
            )
            if rank >= i:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
        elif len(parts) > 2:
            raise ValueError(f"token {i} cannot be built by merging two earlier ones: not a byte-pair encoding")
    return merges


def _character_of_byte() -> list[str]:
    """GPT-2's printable stand-in of each byte: itself where latin-1 prints it, else a character from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
