"""A causal language model of `transformers`, from a folder, as it is: to be judged, not trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from recsysml.errors import ConfigError

# where configurations keep the length of the context, most telling first; the harness looks at the same ones
_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length")
_DEFAULT_LENGTH = 2048


class HFModel(nn.Module):
    """What `models.scoring` and generation need of a `transformers` model.

    Whether it takes rows with several answers behind a common beginning, and whether its head can be applied apart,
    depends on the architecture and is tried out when it is opened: `shares` and `head_apart` say what was found.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        limits = [getattr(model.config, name, None) for name in _LENGTHS]
        longest = getattr(tokenizer, "model_max_length", None)
        # tokenizers without a limit say 1e30
        limits += [longest if longest is not None and longest < 1e6 else None, _DEFAULT_LENGTH]
        self.context_length = int(next(limit for limit in limits if limit))
        self.vocab_size: int = model.get_input_embeddings().num_embeddings
        self.head_apart = True
        self.shares = True
        self._try_out()

    def packed(
        self,
        tokens: Tensor,
        real: Tensor,
        wanted: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Rows (B, T), places of their tokens (N,), those of the N that are asked for (U,) -> hidden states (U, C).

        Logits (U, V) where the head cannot be applied apart.
        """
        extra = {} if positions is None else {"position_ids": positions, "attention_mask": mask}
        if self.head_apart:
            hidden = self.model.base_model(input_ids=tokens, use_cache=False, **extra).last_hidden_state
        else:
            hidden = self.model(input_ids=tokens, use_cache=False, **extra).logits
        return hidden.flatten(0, 1)[real[wanted]]

    def unembed(self, hidden: Tensor) -> Tensor:
        """(..., C) -> logits (..., V) fp32."""
        return (self.model.get_output_embeddings()(hidden) if self.head_apart else hidden).float()

    def greedy(self, ids: Sequence[int], max_new_tokens: int, stop_id: int | None) -> Iterator[int]:
        """The likeliest token after `ids` each time, until `stop_id`, which is not given."""
        device = self.model.device
        new, past = torch.tensor([list(ids)], device=device), None
        for _ in range(max_new_tokens):
            with torch.no_grad():
                output = self.model(input_ids=new, past_key_values=past, use_cache=True)
            past = output.past_key_values
            token = int(output.logits[0, -1].argmax())
            if token == stop_id:
                return
            yield token
            new = torch.tensor([[token]], device=device)

    @torch.no_grad()
    def _try_out(self) -> None:
        """Look whether the two short cuts give what whole rows of the model itself give."""
        generator = torch.Generator().manual_seed(0)
        start, one, two = (torch.randint(self.vocab_size, (n,), generator=generator) for n in (6, 3, 4))
        whole = [self.model(input_ids=torch.cat((start, end))[None]).logits[0] for end in (one, two)]
        places = torch.arange(13)
        plain = (torch.cat((start, one))[None], places[:9], places[:9])
        self.head_apart = _works(lambda: self.unembed(self.packed(*plain)), whole[0])
        row = torch.cat((start, one, two))[None]
        positions = torch.tensor([[*range(9), *range(6, 10)]])
        mask = torch.full((13, 13), -torch.inf).triu(1)
        mask[9:, 6:9] = -torch.inf
        expected = torch.cat((whole[0], whole[1][6:]))
        self.shares = _works(
            lambda: self.unembed(self.packed(row, places, places, positions, mask[None, None])), expected
        )


def _works(attempt: Any, expected: Tensor) -> bool:
    try:
        found = attempt()
    except Exception:  # an architecture may refuse in its own way: then the slow, sure way is taken
        return False
    if found.shape != expected.shape:
        return False
    difference = (found.log_softmax(-1) - expected.float().log_softmax(-1)).abs().max()
    return bool(difference < 1e-3)


class HFTokenizer:
    """A `transformers` tokenizer by the harness's rules for special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eot: int = tokenizer.eos_token_id
        self.prefix: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if self.prefix is None:
            raise ConfigError("model.path: its tokenizer has neither a beginning-of-text nor an end-of-text token")
        self._prefix_text = tokenizer.decode([self.prefix])

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """special: whether tokens such as beginning-of-text are put before it; None is the tokenizer's own way."""
        # what is longer than the context is cut by who asks: not verbose, or transformers warns of it
        if special is None and not text.startswith(self._prefix_text):
            return self.tokenizer.encode(text, verbose=False)
        return self.tokenizer.encode(text, add_special_tokens=bool(special), verbose=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def load(folder: Path) -> tuple[HFModel, HFTokenizer]:
    """The model in eval mode, fp32, on the CPU. Runs no code of the folder, and touches no network.

    Raises ConfigError in one line for a folder that `transformers` cannot read.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError("model=hf: it needs transformers; pip install 'recsysml[hf]'") from None
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"model.path={folder} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return HFModel(model.eval(), tokenizer), HFTokenizer(tokenizer)
