"""The loss of a batch of sequences at its real targets, as the trainer's config asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from recsysml.data.sequence_batches import IGNORE
from recsysml.losses.gbce import gbce
from recsysml.losses.sampled_softmax import draw, excluded, hardest, sampled_softmax, weighted_mean
from recsysml.losses.softmax import linear_cross_entropy, token_losses
from recsysml.models.heads import Head
from recsysml.nn.age_bias import AgeBias
from recsysml.schemas.trainers import RetrievalTrainerConfig


class RowLoss:
    """Called with the states of all positions; padding costs nothing but the encoder's pass."""

    def __init__(
        self,
        settings: RetrievalTrainerConfig,
        item_counts: Tensor,
        user_counts: Tensor,
        *,
        head: nn.Module | None = None,
        bias: AgeBias | None = None,
        pool: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """item_counts (I,) and user_counts (U,): training events of each. head: of loss=hierarchical or cluster.

        bias: added to the logits here and nowhere else, so that nothing that serves knows of it. pool: makes one score
        of the products (N, H, I) of users' several vectors.
        """
        self.settings = settings
        self.head = cast(Head | None, head)
        self.bias = bias
        self.pool = pool
        self.probability = item_counts / item_counts.sum()  # of being a target: each event is one, once an epoch
        self.weight_of_item = item_counts.clamp(min=1).float().rsqrt()
        self.weight_of_user = user_counts.clamp(min=1).float().rsqrt()

    @property
    def reads_items(self) -> bool:
        """Whether it needs item vectors at all."""
        return self.head is None or self.head.reads_items

    def __call__(
        self, states: Tensor, items: Tensor | None, targets: Tensor, users: Tensor, times: Tensor | None = None
    ) -> Tensor:
        """states (B, T, C), items (I, C), targets (B, T) with -100 where there is none, users (B,) -> a scalar.

        states are (B, T, H, C) where users have several vectors. times (B, T): when each target was chosen, where there
        is a bias of age.
        """
        settings = self.settings
        row, place = (targets != IGNORE).nonzero(as_tuple=True)  # (N,) each
        wanted = targets[row, place]  # (N,)
        queries = states[row, place]  # (N, C) or (N, H, C)
        if self.pool is None:
            queries = queries / settings.temperature
        weights = None
        if settings.row_weights == "user":
            weights = self.weight_of_user[users[row]]
        elif settings.row_weights == "item":
            weights = self.weight_of_item[wanted]
        if not len(wanted):
            return states.sum() * 0  # a micro-batch of padding alone
        if self.head is not None:
            return self.head.loss(queries, items, wanted, weights)
        assert items is not None
        if settings.loss == "full":
            if self.pool is None and (self.bias is None or times is None):
                return linear_cross_entropy(queries, items, wanted, weights)
            logits = self._scores(queries, items)  # (N, I)
            if self.bias is not None and times is not None:
                every = torch.arange(len(items), device=logits.device)
                logits = logits + self.bias(times[row, place][:, None], every)
            return weighted_mean(token_losses(logits, wanted), weights)
        candidates = draw(
            len(items),
            uniform=settings.uniform_negatives,
            batch_items=wanted,
            in_batch=settings.in_batch_negatives,
            probability=self.probability,
            hard=hardest(queries.flatten(0, -2), items, settings.hard_negatives) if settings.hard_negatives else None,
        )
        positive = self._own_scores(queries, items[wanted])  # (N,)
        negative = self._scores(queries, items[candidates.ids])  # (N, S)
        if self.bias is not None and times is not None:
            moments = times[row, place]  # (N,)
            positive = positive + self.bias(moments, wanted)
            negative = negative + self.bias(moments[:, None], candidates.ids)
        known, group = (targets, row) if settings.mask_known else (None, None)
        out = excluded(candidates.ids, wanted, known, group)
        if settings.loss == "gbce":
            return gbce(positive, negative, out, len(items), settings.calibration, weights=weights)
        log_expected, own = candidates.log_expected, None
        if not settings.logq:  # +inf stays: it takes a place out
            log_expected = log_expected.where(log_expected.isposinf(), 0.0)
        elif settings.logq_positive:
            drawn = min(settings.in_batch_negatives, len(wanted))
            own = (settings.uniform_negatives / len(items) + drawn * self.probability[wanted]).log()
        return sampled_softmax(positive, negative, log_expected, out, positive_log_expected=own, weights=weights)

    def _scores(self, queries: Tensor, items: Tensor) -> Tensor:
        """(N, C) or (N, H, C), (S, C) -> (N, S)."""
        products = queries @ items.T
        # pooled scores are divided and not the products: how vectors are pooled must not hang on the temperature
        return products if self.pool is None else self.pool(products) / self.settings.temperature

    def _own_scores(self, queries: Tensor, items: Tensor) -> Tensor:
        """(N, C) or (N, H, C), (N, C) -> (N,): each row with its own item."""
        if self.pool is None:
            return (queries * items).sum(dim=1)
        return self.pool(queries @ items[..., None])[:, 0] / self.settings.temperature
