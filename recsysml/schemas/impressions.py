"""Config of data whose rows are impressions: what was shown, to whom, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import at_least, one_of, parts_of_time, share


@dataclass
class _ImpressionFields:
    """What all tables of impressions share."""

    families: ClassVar[tuple[str, ...]] = ("impressions",)

    # a label of the YAML: the data set's name in results.json
    name: str = "impressions"
    # shares of the rows, the newest last; a request is never cut in two
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    # what the final model learns from: train, or train_val (then nothing may be chosen on val)
    fit_range: str = "train"

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        parts_of_time(self.val_fraction, self.test_fraction, self.fit_range)


KUAIRAND_TASKS = ("click", "long_view", "like", "comment", "forward", "follow", "profile_enter")


@dataclass
class KuaiRandConfig(_ImpressionFields):
    """KuaiRand-27K, an extract: videos shown to users over two weeks, with seven kinds of response."""

    kind: str = "kuairand"
    name: str = "kuairand"
    # the log: tab-separated, with a row an impression
    path: str = "multitask/kuairand-27k_kcore15.tsv.gz"
    # features of users by user_id; null does without
    users_path: str | None = "multitask/kuairand_user_features.csv.gz"
    # labels to predict
    tasks: list[str] = field(default_factory=lambda: ["click", "long_view", "profile_enter"])
    # what a row may know of the past: row (all before its own time) or train (of that, what lies in train)
    history_until: str = "row"

    def validate(self) -> None:
        super().validate()
        one_of("data.history_until", self.history_until, ("row", "train"))
        for task in self.tasks:
            one_of("data.tasks", task, KUAIRAND_TASKS)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"data.tasks={self.tasks}: give one or more labels, each once.")

    def task_types(self) -> dict[str, str]:
        """Label -> binary or real."""
        return dict.fromkeys(self.tasks, "binary")


@dataclass
class ImpressionsConfig(_ImpressionFields):
    """Impressions from a table of your own: which columns are features, of what type, and which are labels."""

    kind: str = "impressions"
    # a CSV, TSV or Parquet file, gzipped or not, with a row an impression
    path: str | None = None
    # files with a split of their own; null means that the fractions cut it from `path`
    val_path: str | None = None
    test_path: str | None = None
    # the columns' names, where the file has no header
    columns: list[str] = field(default_factory=list)
    # seconds, or dates; null: the rows stand in the order of time
    time_column: str | None = None
    # what groups the rows of one slate; null: every row is a request of its own
    request_column: str | None = None
    # the place in the slate, from 0
    position_column: str | None = None
    # the sparse column that says who it is, and the one that says what is shown; sequences are compared with the latter
    user_column: str | None = None
    target_column: str | None = None
    # further sparse columns that say something of the user alone: with model.interaction=concat and user=id_table what
    # the rows of a user share is multiplied once in a step
    user_columns: list[str] = field(default_factory=list)
    # numbers
    dense: list[str] = field(default_factory=list)
    # ids
    sparse: list[str] = field(default_factory=list)
    # lists of ids, in text with spaces, commas, semicolons or bars between
    bags: list[str] = field(default_factory=list)
    # lists of ids in order of time, oldest first; they share the target column's vocabulary
    sequences: list[str] = field(default_factory=list)
    # lists of numbers, all of one length
    vectors: list[str] = field(default_factory=list)
    # sparse columns that calibration is looked at by
    cohorts: list[str] = field(default_factory=list)
    # column -> binary (0 or 1) or real
    labels: dict[str, str] = field(default_factory=dict)
    # of a binary label that is a text: the text that stands for 1
    positive: dict[str, str] = field(default_factory=dict)
    # besides the labels, what comes later in the session, as real labels later_<column>: columns of numbers, and items
    # (a one each). Sums end with the row's own split, so that no label of one knows of another
    retention: list[str] = field(default_factory=list)
    # what groups the rows of one session; of the user_column's users each has their own
    session_column: str | None = None
    # a row k places later counts retention_discount^k
    retention_discount: float = 0.9
    # the column of 0 and 1 without which a later row pays nothing (a segment); null: each pays
    retention_pays: str | None = None
    # the one without which a row is paid nothing for what follows it (its immediate value); null: each is paid
    retention_after: str | None = None
    # sparse column -> buckets that its ids are hashed into; the others have a vocabulary
    hashed: dict[str, int] = field(default_factory=dict)
    # how often training must meet a value for it to have an id of its own
    min_count: int = 1

    def validate(self) -> None:
        super().validate()
        at_least("data.min_count", self.min_count, 1)
        for name, kind in self.labels.items():
            one_of(f"data.labels.{name}", kind, ("binary", "real"))
        for name, buckets in self.hashed.items():
            at_least(f"data.hashed.{name}", buckets, 2)
        self._sparse_only("data.hashed", self.hashed)
        self._sparse_only("data.cohorts", self.cohorts)
        self._sparse_only("data.user_column", [self.user_column] if self.user_column else [])
        self._sparse_only("data.user_columns", self.user_columns)
        if self.user_columns and not self.user_column:
            raise ConfigError("data.user_columns say something of a user: set data.user_column.")
        if len({self.user_column, *self.user_columns}) <= len(self.user_columns):
            raise ConfigError(f"data.user_columns={self.user_columns}: name each once, and data.user_column not again.")
        if self.target_column in [self.user_column, *self.user_columns] and self.user_columns:
            raise ConfigError(f"data.user_columns: {self.target_column} is what is shown (data.target_column).")
        self._sparse_only("data.target_column", [self.target_column] if self.target_column else [])
        if strangers := set(self.positive) - {name for name, kind in self.labels.items() if kind == "binary"}:
            raise ConfigError(f"data.positive: {sorted(strangers)[0]} is no binary label of data.labels.")
        if self.sequences and not self.target_column:
            raise ConfigError("data.sequences are compared with what is shown: set data.target_column.")
        if len(self.sequences) > 1:
            raise ConfigError(f"data.sequences={self.sequences}: one is read, the others would be ignored.")
        if (self.val_path and not self.test_path) or (self.test_path and not self.val_path):
            raise ConfigError("data.val_path and data.test_path: give both, or none and the fractions cut `path`.")
        self._validate_retention()
        inputs = [*self.dense, *self.sparse, *self.bags, *self.sequences, *self.vectors]
        used = [*inputs, *self.labels, *(f"later_{name}" for name in self.retention)]
        if twice := [name for name in dict.fromkeys(used) if used.count(name) > 1]:
            raise ConfigError(f"data: the column {twice[0]} is named in two places; a label is never an input.")

    def _validate_retention(self) -> None:
        share("data.retention_discount", self.retention_discount, one=True)
        if len(set(self.retention)) < len(self.retention):
            raise ConfigError(f"data.retention={self.retention}: name each column once.")
        if self.retention and not self.session_column:
            raise ConfigError("data.retention is summed over sessions: set data.session_column.")
        for key in ("retention_pays", "retention_after"):
            if getattr(self, key) and not self.retention:
                raise ConfigError(f"data.{key} is not read without data.retention: name what is to be summed.")
        for name in (*self.retention, self.retention_after):
            for key in ("dense", "sparse", "bags", "sequences", "vectors"):
                if name in getattr(self, key):
                    raise ConfigError(f"data.{key}: {name} makes a label (data.retention); a label is never an input.")

    def _sparse_only(self, key: str, names: object) -> None:
        for name in names:  # type: ignore[attr-defined]
            if name not in self.sparse:
                raise ConfigError(f"{key}: {name} is none of data.sparse ({', '.join(self.sparse) or 'empty'}).")

    def task_types(self) -> dict[str, str]:
        """Label -> binary or real."""
        return dict(self.labels) | dict.fromkeys((f"later_{name}" for name in self.retention), "real")
