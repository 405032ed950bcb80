"""What a language model answers to texts: likelihoods of continuations and of whole texts, and the likeliest text.

Texts become tokens as in lm_eval's Hugging Face model, so that the numbers are comparable: the same split of context
and continuation, the same cut from the left, the same first token where there is no context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from recsysml.data.progress import progress
from recsysml.engine import score_cache
from recsysml.engine.device import Machine
from recsysml.engine.opening import Opened
from recsysml.errors import ConfigError, JobError
from recsysml.models.scoring import Request, log_likelihoods
from recsysml.runlog import logger

_MAX_NEW_TOKENS = 256  # where a task does not say; lm_eval's own
_MOST_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class Answerer:
    """A model on its device. `batch_size`: questions scored at once, None is as many as suit.

    With `use_cache`, answers are kept in the cache folder by model and questions, and not computed again.
    """

    def __init__(self, opened: Opened, machine: Machine, batch_size: int | None = None, use_cache: bool = True) -> None:
        self.opened, self.machine, self.batch_size = opened, machine, batch_size
        self.use_cache = use_cache and bool(opened.fingerprint)
        self.context_length = opened.scorable.context_length
        self._encode = lru_cache(maxsize=256)(opened.tokenizer.encode)  # the answers of a question share a context

    def log_likelihoods(
        self, pairs: Sequence[tuple[str, str]], questions: Sequence[Hashable] | None = None, what: str = "scoring"
    ) -> list[tuple[float, bool]]:
        """(log p, whether greedy) of each (context, continuation). Pairs of one question share work, and no more."""

        def answer() -> list[Any]:
            owners = range(len(pairs)) if questions is None else questions
            return self._score([Request(*self.encode_pair(*p), q) for p, q in zip(pairs, owners, strict=True)], what)

        return [(nats, greedy) for nats, greedy in self._kept("loglikelihood", pairs, answer, what)]

    def rolling(self, texts: Sequence[str], what: str = "scoring") -> list[float]:
        """log p of each text, in windows as long as the context that do not overlap."""

        def answer() -> list[Any]:
            pieces: list[Request] = []
            owners: list[int] = []
            for number, text in enumerate(texts):
                for context, continuation in windows(self._encode(text, None), self.prefix, self.context_length):
                    pieces.append(Request(context, continuation, len(pieces)))
                    owners.append(number)
            nats = np.zeros(len(texts))
            np.add.at(nats, np.array(owners, dtype=np.int64), [score[0] for score in self._score(pieces, what)])
            return nats.tolist()

        return self._kept("rolling", texts, answer, what)

    def generate(self, asked: Sequence[tuple[str, Mapping[str, Any]]], what: str = "generating") -> list[str]:
        """The likeliest text after each context, up to a stop sequence (`until`) or the most new tokens.

        Raises ConfigError for settings that sample.
        """

        def answer() -> list[Any]:
            texts = []
            with progress(what, len(asked)) as advance:
                for context, settings in asked:
                    texts.append(self._generate(context, settings))
                    advance(1)
            return texts

        return self._kept("generate", [[context, dict(settings)] for context, settings in asked], answer, what)

    @property
    def prefix(self) -> int:
        return self.opened.tokenizer.prefix

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both. The two are encoded as one text and cut where the context ends; spaces at its end go with
        the continuation, because tokens begin with a space."""
        if not context:
            ids = self._encode(continuation, False)
            return ([self.prefix], ids) if ids[0] != self.prefix else (ids[:1], ids[1:])
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        own = self._encode(bare, None)
        return own, self.opened.tokenizer.encode(bare + continuation)[len(own) :]

    def _score(self, requests: list[Request], what: str) -> list[Any]:
        with progress(what, len(requests)) as advance:
            scores = log_likelihoods(
                self.opened.scorable,
                requests,
                device=self.machine.device,
                batch_size=self.batch_size,
                share=self.opened.shares,
                autocast=self.machine.autocast,
                done=advance,
            )
        if any(math.isnan(score.nats) for score in scores):
            raise JobError(f"{what}: the model answers with NaN; its weights diverged or are damaged")
        return scores

    def _generate(self, context: str, settings: Mapping[str, Any]) -> str:
        if settings.get("do_sample") and float(settings.get("temperature", 1.0)) > 0:
            raise ConfigError("a task asks for sampled text (do_sample); only the likeliest text is generated here")
        most = int(next((settings[name] for name in _MOST_NAMES if settings.get(name)), _MAX_NEW_TOKENS))
        most = min(most, max(1, self.context_length // 2))  # the question must keep room in a short context
        until = settings.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        ids = self._encode(context, None)[-(self.context_length - most) :] or [self.prefix]
        new: list[int] = []
        text = ""
        for token in self.opened.greedy(ids, most):
            new.append(token)
            text = self.opened.tokenizer.decode(new)
            if any(stop in text for stop in stops):
                break
        for stop in stops:
            text = text.split(stop)[0]
        return text

    def _kept(self, kind: str, asked: Sequence[Any], answer: Callable[[], list[Any]], what: str) -> list[Any]:
        """The answers of the cache, or new ones, which are then kept."""
        if not self.use_cache:
            return answer()
        digest = score_cache.request_hash([kind, *asked])
        path = score_cache.path_of(
            self.opened.fingerprint, digest, f"{self.machine.precision} on {self.machine.device.type}"
        )
        kept = score_cache.read(path, len(asked))
        if kept is not None:
            logger.info("%s: this model's answers are kept (eval.use_cache=false asks anew)", what)
            return kept
        answers = answer()
        score_cache.write(path, answers)
        return answers


def windows(ids: Sequence[int], prefix: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """(context, continuation) of windows over a text: every token is scored once, the first behind `prefix`.

    Windows are `length` tokens and do not overlap; the last one looks back over the text to be as long.
    """
    before = [prefix, *ids]
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        yield before[max(0, end - length) if start else 0 : start + 1], list(ids[start:end])
