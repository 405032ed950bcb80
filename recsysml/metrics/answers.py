"""An answer beside a reference and beside the text it was to be drawn from: words in common, nothing cleverer.

Words are compared in lower case without punctuation and articles (SQuAD, Rajpurkar et al. 2016). That misses
paraphrase and cannot see a negation: a high number is no proof of a faithful answer, a low one is a sign against it.
"""

from __future__ import annotations

import re
from collections import Counter

_ARTICLES = {"a", "an", "the"}


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, articles left out."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in _ARTICLES]


def exact_match(answer: str, reference: str) -> float:
    """1 where both have the same words in the same order."""
    return float(words(answer) == words(reference))


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of either's words that the other has, repeated words counted; 0 without any."""
    found, wanted = Counter(words(answer)), Counter(words(reference))
    common = sum((found & wanted).values())
    if not common:
        return float(not found and not wanted)
    precision, recall = common / sum(found.values()), common / sum(wanted.values())
    return 2 * precision * recall / (precision + recall)


def support(text: str, context: str) -> float:
    """The share of the words of `text` that `context` has, 0 for a text without words.

    Of a reference answer in the retrieved text it is context recall; of a generated one in it, faithfulness.
    """
    own, there = words(text), set(words(context))
    return sum(word in there for word in own) / len(own) if own else 0.0
