"""Config of every eval kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import above, at_least, one_of, share
from recsysml.schemas.value_expression import ParsedExpression


@dataclass
class LanguageEvalConfig:
    """Loss and bits per byte over a whole split, in order."""

    family: ClassVar[str] = "text"
    # what a sweep's table shows; the first decides which job is best (bits per byte also compares tokenizers)
    headline: ClassVar[tuple[str, ...]] = ("val/bits_per_byte", "val/loss")

    kind: str = "language"
    # train, val or test
    split: str = "val"
    # sequences scored at once
    batch_size: int = 16

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("train", "val", "test"))
        at_least("eval.batch_size", self.batch_size, 1)


# what a retriever is always compared with; each is a model of its own
BASELINES = ("popularity", "recent_popularity", "seq_knn", "ease")
# what can be named besides: they need an extra
MORE_BASELINES = ("bpr", "als")


@dataclass
class RetrievalEvalConfig:
    """Ranks on the full catalogue of what users turned to next, beside simple methods."""

    family: ClassVar[str] = "interactions"
    headline: ClassVar[tuple[str, ...]] = ("val/ndcg@20", "val/recall@20")

    kind: str = "retrieval"
    # val or test
    split: str = "test"
    # lengths of the lists that are judged; the first also by popularity decile and history length
    ks: list[int] = field(default_factory=lambda: [20, 10])
    # the methods run beside the model, bpr and als too: popularity is `baseline`, the others are `baselines`
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    # users scored at once
    batch_size: int = 256

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("val", "test"))
        at_least("eval.batch_size", self.batch_size, 1)
        if not self.ks or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"eval.ks={self.ks}: give one or more lengths of a list, each once.")
        for k in self.ks:
            at_least("eval.ks", k, 1)
        for name in self.baselines:
            one_of("eval.baselines", name, (*BASELINES, *MORE_BASELINES))


# what a ranker is always compared with, task by task
RANKING_BASELINES = ("base_rate", "logistic_regression", "gradient_boosting")


@dataclass
class RankingEvalConfig:
    """Probabilities of every task against what happened, beside simple methods."""

    family: ClassVar[str] = "impressions"
    # kinds of models that it judges, where not all of the family
    judges: ClassVar[tuple[str, ...]] = ("mtml",)
    headline: ClassVar[tuple[str, ...]] = ("val/ne", "val/auc", "test/ece")

    kind: str = "ranking"
    # val or test; val is judged by a map of the rows after it, as the checkpoint's own has seen val
    split: str = "test"
    # the methods run beside the model: base_rate is `baseline`, the others are `baselines`
    baselines: list[str] = field(default_factory=lambda: list(RANKING_BASELINES))
    # impressions scored at once
    batch_size: int = 4096

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("val", "test"))
        at_least("eval.batch_size", self.batch_size, 1)
        for name in self.baselines:
            one_of("eval.baselines", name, RANKING_BASELINES)


@dataclass
class TrueRewardEvalConfig(RankingEvalConfig):
    """What `ranking` shows and, on the simulated world, what slates in the order of a value model are truly worth."""

    headline: ClassVar[tuple[str, ...]] = ("test/true_reward", "test/ne", "test/auc", "test/ece")

    kind: str = "true_reward"
    baselines: list[str] = field(default_factory=lambda: ["base_rate"])
    # action -> what it is worth: click, long_view, like, share, and the unwanted skip and leave
    reward: dict[str, float] = field(
        default_factory=lambda: {"click": 1.0, "long_view": 2.0, "like": 5.0, "share": 10.0}
    )
    # what slates are ordered by: an expression of p_<task>; null is the sum of reward x probability
    value: str | None = None

    def validate(self) -> None:
        super().validate()
        actions = ("click", "long_view", "like", "share", "skip", "leave")
        for name in self.reward:
            one_of("eval.reward", name, actions)
        if not self.reward:
            raise ConfigError("eval.reward is empty: name at least one action and what it is worth.")
        if self.value:
            ParsedExpression(self.value, actions, "eval.value")


@dataclass
class ValueEvalConfig:
    """The order of a value model: what each task gets of it, and whether its share is the one asked for."""

    family: ClassVar[str] = "impressions"
    judges: ClassVar[tuple[str, ...]] = ("value_model",)
    headline: ClassVar[tuple[str, ...]] = ("test/importance_l1", "test/page/value", "test/page/session")

    kind: str = "value"
    # val or test
    split: str = "test"
    # impressions scored at once
    batch_size: int = 4096
    # of the simulated world: requests whose candidates are put in order and paid by the world's truth; 0 does without
    requests: int = 1000

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("val", "test"))
        at_least("eval.batch_size", self.batch_size, 1)
        at_least("eval.requests", self.requests, 0)


# how a page is made of what its candidates are worth
PAGES = ("order", "gumbel", "mmr", "calibrated")


@dataclass
class PageEvalConfig:
    """Pages made of all that could have been shown, and what they truly bring: of the simulated world alone."""

    family: ClassVar[str] = "impressions"
    headline: ClassVar[tuple[str, ...]] = ("test/page/order/value", "test/page/order/session")
    # a value model's training judges pages itself
    after_training: ClassVar[bool] = False

    kind: str = "page"
    # val or test
    split: str = "test"
    # what an item is worth, of a ranker: an expression of p_<task>; null is what the data pays for each task. A value
    # model has its own
    expression: str | None = None
    # order (by worth alone), gumbel (drawn by it), mmr (unlike what stands above) or calibrated (true to the user's
    # taste)
    pages: list[str] = field(default_factory=lambda: list(PAGES))
    # items on a page
    length: int = 8
    # of gumbel: 0 explores nothing. It and the next two are beside values in units of their standard deviation
    temperature: float = 0.3
    # of mmr: the weight of being unlike, below 1
    diversity: float = 0.3
    # of calibrated: the weight of the user's taste, below 1
    calibration: float = 0.3
    # so many, evenly from the split
    requests: int = 1000
    # candidates scored at once
    batch_size: int = 4096

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("val", "test"))
        for name in self.pages:
            one_of("eval.pages", name, PAGES)
        if not self.pages or len(set(self.pages)) < len(self.pages):
            raise ConfigError(f"eval.pages={self.pages}: give one or more ways to make a page, each once.")
        at_least("eval.length", self.length, 2)
        at_least("eval.requests", self.requests, 2)
        at_least("eval.batch_size", self.batch_size, 1)
        at_least("eval.temperature", self.temperature, 0)
        share("eval.diversity", self.diversity)
        share("eval.calibration", self.calibration)


# whose value is asked for
POLICIES = ("model", "uniform", "logging", "bts")


@dataclass
class PolicyEvalConfig:
    """What a policy would have earned, from another policy's log: eight off-policy estimates with their intervals."""

    family: ClassVar[str] = "slates"
    headline: ClassVar[tuple[str, ...]] = ("val/policy/value", "test/policy/value", "test/policy/dr")

    kind: str = "policy"
    # val or test; of a policy that has learnt nothing from the log also all
    split: str = "test"
    # model (the checkpoint's), uniform (any candidate), logging (where all of it is logged), or bts: of the Open Bandit
    # Dataset's log of that name, how often it shows each item in each place
    policy: str = "model"
    # the largest weight of clipped_ips; null is the square root of the number of requests
    clip: float | None = None
    # parts that requests are dealt to: the reward model of dm, dr, dr_os and switch_dr predicts each from all others
    folds: int = 5
    # requests scored at once
    batch_size: int = 1024

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.policy", self.policy, POLICIES)
        one_of("eval.split", self.split, ("val", "test", "all"))
        if self.split == "all" and self.policy == "model":
            raise ConfigError("eval.split=all: the model has learnt from a part of it; use test or val.")
        if self.clip is not None:
            above("eval.clip", self.clip, 0)
        at_least("eval.folds", self.folds, 2)
        at_least("eval.batch_size", self.batch_size, 1)

    def check_data(self, data: Any) -> None:
        """Raise a ConfigError where the data does not have the policy that is asked for. data: a config of slates."""
        if getattr(data, "split", "time") != "time":
            raise ConfigError(f"data.split={data.split}: slates are divided by time; use data.split=time.")
        if self.policy == "bts" and data.kind != "open_bandit":
            raise ConfigError("eval.policy=bts: it is a policy of the Open Bandit Dataset; use data=open_bandit.")
        if self.policy == "logging" and getattr(data, "behaviour", None) == "bts":
            raise ConfigError("eval.policy=logging: bts has logged only the probabilities of what was shown.")


@dataclass
class AdsEvalConfig:
    """The true value of an ad policy by enumeration, beside the log's, the best one's and off-policy estimates."""

    family: ClassVar[str] = "ads"
    # gap_closed first: values at two settings of the dial do not compare
    headline: ClassVar[tuple[str, ...]] = (
        "test/policy/gap_closed", "test/policy/value", "test/policy/revenue", "test/policy/engagement",
    )  # fmt: skip
    # the two that a sweep draws against each other
    trade_off: ClassVar[tuple[str, str]] = ("test/policy/engagement", "test/policy/revenue")

    kind: str = "ads"
    # val or test
    split: str = "test"
    # of `recsysml eval`: the dial at which the policy decides and is judged; null is the one it was trained with
    dial: float | None = None
    # settings of the dial between which the curve of revenue against engagement is drawn
    dials: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0])

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("val", "test"))
        for dial in self.dials:
            at_least("eval.dials", dial, 0)
        if self.dial is not None:
            at_least("eval.dial", self.dial, 0)


@dataclass
class LMHarnessEvalConfig:
    """Tasks of lm_eval, from local files or its own catalogue, on any language model."""

    family: ClassVar[str] = "text"
    headline: ClassVar[tuple[str, ...]] = ()  # what the tasks give; the table of a sweep shows all of it
    # training asks tasks by trainer.eval_tasks
    after_training: ClassVar[bool] = False

    kind: str = "lm_harness"
    # questions scored at once; auto is as many as suit the device
    batch_size: int | str = "auto"
    # fp32, or bf16 (faster; log-likelihoods are off by up to 0.1)
    precision: str = "fp32"
    # answers are kept by model and task; false asks the model anew
    use_cache: bool = True
    # a folder with task YAML of your own, looked at first; null is `task/` in --config-dir, where there is one
    task_folder: str | None = None
    # whether tasks of that folder may run code (the same as --trust)
    trust: bool = False

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise ConfigError(f"eval.batch_size={self.batch_size}: it must be auto or a whole number from 1 on.")
        one_of("eval.precision", self.precision, ("fp32", "bf16"))


@dataclass
class ContaminationEvalConfig:
    """How many of a task's questions stand in a run's training text, and its scores with and without them."""

    family: ClassVar[str] = "text"
    headline: ClassVar[tuple[str, ...]] = ()
    # training does not end with it: it judges the text, not the model
    after_training: ClassVar[bool] = False

    kind: str = "contamination"
    # TASK:FILE, a .jsonl (also .gz) in the working directory or under $RECSYSML_DATA; FILE alone names the task as well
    questions: list[str] = field(default_factory=list)
    # words in a row that mark a question as touched
    ngram: int = 13
    # a shorter row, which finds more and means less
    short_ngram: int = 8
    # a run of `recsysml eval tasks=...` whose scores are split into clean and touched questions; null: those of the
    # checkpoint on `tasks`, and none for files of questions
    scores: str | None = None
    # a folder with task YAML of your own, and whether it may run code: as in lm_harness
    task_folder: str | None = None
    trust: bool = False

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        at_least("eval.short_ngram", self.short_ngram, 1)
        if self.ngram <= self.short_ngram:
            raise ConfigError(f"eval.ngram={self.ngram}: it must be more than eval.short_ngram={self.short_ngram}.")
        named = [task for task, _ in self.files()]
        for task in named:
            if not task or "/" in task or named.count(task) > 1:
                raise ConfigError(f"eval.questions: {task!r} names no task of its own; write TASK:FILE.")

    def files(self) -> list[tuple[str, str]]:
        """(task, file) of each of `questions`; a file alone names the task by its own name without endings."""
        pairs = [text.rpartition(":") for text in self.questions]
        return [(task if colon else file.rpartition("/")[2].partition(".")[0], file) for task, colon, file in pairs]


@dataclass
class RAGEvalConfig:
    """Answers with retrieved text (BM25), judged by words in common and by likelihoods; no other model is asked."""

    family: ClassVar[str] = "text"
    headline: ClassVar[tuple[str, ...]] = ("lm/rag/f1", "lm/rag/context_recall", "lm/rag/faithfulness")
    after_training: ClassVar[bool] = False

    kind: str = "rag"
    # files or folders of text, in the working directory or under $RECSYSML_DATA
    documents: list[str] = field(default_factory=list)
    # a .jsonl with rows {"question": ..., "answer": ...}
    questions: str | None = None
    # words in a chunk, and how many chunks a question gets
    chunk_words: int = 60
    top_k: int = 3
    # the longest answer, in tokens
    max_new_tokens: int = 32

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        for name in ("chunk_words", "top_k", "max_new_tokens"):
            at_least(f"eval.{name}", getattr(self, name), 1)
