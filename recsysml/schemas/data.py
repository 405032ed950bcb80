"""Config of every data kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import at_least, one_of, share

# the trainer of a bpe takes memory for all of it at once, and dies without a word where there is none
MAX_VOCABULARY = 1_000_000


@dataclass
class _TextFields:
    """What all token streams share."""

    families: ClassVar[tuple[str, ...]] = ("text",)

    # a label of the YAML: the data set's name in results.json
    name: str = "text"
    # bpe (trained on the training split, offline), gpt2 (tiktoken: its cache or the network), bytes
    tokenizer: str = "bpe"
    # size of a trained bpe vocabulary, the end-of-text token included
    vocab_size: int = 4096
    # shares of the text, by document (by position within a single document)
    val_fraction: float = 0.05
    test_fraction: float = 0.05

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("data.tokenizer", self.tokenizer, ("bpe", "gpt2", "bytes"))
        if self.tokenizer == "bpe":
            at_least("data.vocab_size", self.vocab_size, 257)  # every byte and the end-of-text token
            if self.vocab_size > MAX_VOCABULARY:
                raise ConfigError(f"data.vocab_size={self.vocab_size}: it must be at most {MAX_VOCABULARY}.")
        share("data.val_fraction", self.val_fraction)
        share("data.test_fraction", self.test_fraction)
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction} and data.test_fraction={self.test_fraction} leave no text to"
                " train on; together they must be below 1."
            )


@dataclass
class PythonTextConfig(_TextFields):
    """Text that every Python has: its documentation, or its source. Parsed, never imported."""

    kind: str = "python_text"
    # docs (the language reference and the library's docstrings), reference (it alone) or source (the library's files)
    part: str = "docs"

    def validate(self) -> None:
        super().validate()
        one_of("data.part", self.part, ("docs", "reference", "source"))


@dataclass
class TextConfig(_TextFields):
    """Any text files: paths, folders, globs, .jsonl. tinyshakespeare and wikitext are this with known files."""

    kind: str = "text"
    # files, folders or globs; relative ones are looked for in the working directory, then in $RECSYSML_DATA
    path: list[str] = field(default_factory=list)
    # files with a split of their own; empty means that `val_fraction`/`test_fraction` cut it from `path`
    val_path: list[str] = field(default_factory=list)
    test_path: list[str] = field(default_factory=list)
    # the field of a .jsonl line that holds the text
    text_key: str = "text"
    # where `recsysml data prepare` can fetch the file(s) from, and the sha256 expected of each
    urls: dict[str, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass
class HubTextConfig(_TextFields):
    """A text data set of the Hugging Face hub, streamed once into token shards, offline from then on."""

    kind: str = "hub_text"
    hub_name: str = "HuggingFaceFW/fineweb-edu"
    hub_subset: str | None = "sample-10BT"
    hub_split: str = "train"
    text_key: str = "text"
    # stop after so many tokens
    max_tokens: int = 100_000_000
    # tokens in one shard file
    shard_tokens: int = 10_000_000

    def validate(self) -> None:
        super().validate()
        at_least("data.max_tokens", self.max_tokens, 1)
        at_least("data.shard_tokens", self.shard_tokens, 1)


@dataclass
class _InteractionFields:
    """What all user-item events share."""

    families: ClassVar[tuple[str, ...]] = ("interactions",)
    # whether it says who knows whom
    has_friends: ClassVar[bool] = False

    # a label of the YAML: the data set's name in results.json
    name: str = "interactions"
    # time (global) or last_out (each user's last event)
    split: str = "time"
    # whether what a user has turned to before is no candidate when it is judged
    mask_seen: bool = True
    # what the final model learns from: train, or train_val (then nothing may be chosen on val)
    fit_range: str = "train"

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("data.split", self.split, ("time", "last_out"))
        one_of("data.fit_range", self.fit_range, ("train", "train_val"))


@dataclass
class InteractionsConfig(_InteractionFields):
    """User-item events over time, from files of your own or of a known data set."""

    kind: str = "interactions"
    # events: a RecBole .inter file, a CSV, TSV or Parquet file, gzipped or not
    path: str | None = None
    user_column: str = "user_id"
    item_column: str = "item_id"
    # seconds, or dates
    time_column: str = "timestamp"
    # how a user's events of one moment stand: as in the source, or by item (the lower number, or name, first)
    ties: str = "source"
    # a table with a row an item, and of its columns: the title, numbers, categories, and texts that are cut into tags
    items_path: str | None = None
    title_column: str | None = None
    item_dense: list[str] = field(default_factory=list)
    item_categorical: list[str] = field(default_factory=list)
    item_tags: list[str] = field(default_factory=list)
    # a table with a row a user, and of its columns: numbers, categories
    users_path: str | None = None
    user_dense: list[str] = field(default_factory=list)
    user_categorical: list[str] = field(default_factory=list)
    # what the events' file must have; null takes it as it is
    sha256: str | None = None

    def validate(self) -> None:
        super().validate()
        one_of("data.ties", self.ties, ("source", "item"))


@dataclass
class SequencesConfig(_InteractionFields):
    """Users' items in time order without times, a line a user: the user, then the items, in words of their own."""

    kind: str = "sequences"
    split: str = "last_out"
    path: str | None = None
    # JSON with tables id2user and id2item: what the words of the file are called elsewhere
    names_path: str | None = None
    # JSON: an item's word -> its attributes, which become tags
    tags_path: str | None = None
    # a line an item: its name (of names_path) and then its title
    titles_path: str | None = None
    # what the file must have; null takes it as it is
    sha256: str | None = None

    def validate(self) -> None:
        super().validate()
        if self.split != "last_out":
            raise ConfigError(f"data.split={self.split}: {self.name} has no times, only an order: use last_out.")


@dataclass
class Ml1mConfig(_InteractionFields):
    """MovieLens 1M: ratings.dat, or the sequences that SASRec's code is published with."""

    kind: str = "ml_1m"
    # the folder with ratings.dat or sas_train_input.txt, and with movies.dat and users.dat
    path: str = "ml-1m"
    # ratings (with times), sequences (the order only), or auto: ratings where they are
    source: str = "auto"

    def validate(self) -> None:
        super().validate()
        one_of("data.source", self.source, ("auto", "ratings", "sequences"))


@dataclass
class WorldConfig(_InteractionFields):
    """The simulated world: its truth is known, so that what is learnt can be held against it.

    A retriever learns from its interactions, a ranker from its impressions: all that was shown, with every action; a
    policy from its slates: what could have been shown on top, what was, and the probability of it.
    """

    families: ClassVar[tuple[str, ...]] = ("interactions", "impressions", "slates")

    has_friends: ClassVar[bool] = True
    # labels that nobody wants more of
    unwanted: ClassVar[tuple[str, ...]] = ("skip", "leave")
    # what can happen to an item that is shown
    actions: ClassVar[tuple[str, ...]] = ("click", "long_view", "like", "share", "skip", "leave")
    # what a session goes on to, as labels of what came before
    retained: ClassVar[tuple[str, ...]] = (
        "items", "watch_seconds", "conversions", "click", "long_view", "like", "share",
    )  # fmt: skip
    # what a policy is paid for, where its model does not say otherwise
    reward_weights: ClassVar[dict[str, float]] = {"click": 0.5, "long_view": 1.0, "like": 1.0, "share": 2.0}

    kind: str = "world"
    name: str = "world"
    users: int = 2000
    items: int = 2000
    # items shown, each to one user once
    events: int = 100_000
    # of the world, not of the run: the same world for every model's seed
    seed: int = 1
    # for retrievers: what makes an event an interaction: click, long_view, like or share
    action: str = "click"
    # for rankers, besides what happens to the item itself: what its user does later in the session, as real labels
    # later_<value>: items (a one each), watch_seconds, conversions (likes and shares), click, long_view, like or share
    retention: list[str] = field(default_factory=list)
    # an event k items later counts retention_discount^k
    retention_discount: float = 0.9
    # the action without which a later item pays nothing (a segment); null: each pays
    retention_pays: str | None = None
    # the action without which an item is paid nothing for what follows it (its immediate value); null: each is paid
    retention_after: str | None = None

    def validate(self) -> None:
        super().validate()
        one_of("data.action", self.action, ("click", "long_view", "like", "share"))
        for name in self.retention:
            one_of("data.retention", name, self.retained)
        share("data.retention_discount", self.retention_discount, one=True)
        for key in ("retention_pays", "retention_after"):
            if (action := getattr(self, key)) is not None:
                one_of(f"data.{key}", action, self.actions)
        for name, low, high in (("users", 10, 10**8), ("items", 100, 10**8), ("events", 100, 10**9)):
            at_least(f"data.{name}", value := getattr(self, name), low)
            if value > high:
                raise ConfigError(f"data.{name}={value}: the world is held in memory; it must be at most {high:,}.")
        at_least("data.seed", self.seed, 0)
        if len(set(self.retention)) < len(self.retention):
            raise ConfigError(f"data.retention={self.retention}: name each value once.")

    def task_types(self) -> dict[str, str]:
        """Label of an impression -> binary or real."""
        later = dict.fromkeys((f"later_{name}" for name in self.retention), "real")
        return dict.fromkeys(self.actions, "binary") | later


@dataclass
class AdWorldConfig:
    """A simulated log of ad decisions whose best policy is known: every session's truth is in closed form."""

    families: ClassVar[tuple[str, ...]] = ("ads",)
    has_friends: ClassVar[bool] = False

    kind: str = "ad_world"
    # a label of the YAML: the data set's name in results.json
    name: str = "ad_world"
    # the last tenth but two are val, the last two tenths test
    sessions: int = 150_000
    # ads to choose from, and places where one of them may stand
    ads: int = 2
    places: int = 2
    # of the world and its log, not of the run
    seed: int = 1

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        at_least("data.sessions", self.sessions, 100)
        at_least("data.ads", self.ads, 1)
        at_least("data.places", self.places, 1)
        at_least("data.seed", self.seed, 0)
        if self.places > 3:
            raise ConfigError(f"data.places={self.places}: there are 3 places at most.")
