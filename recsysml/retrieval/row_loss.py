"""The loss of a batch of sequences at its real targets, as the trainer's config asks for it."""

from __future__ import annotations

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
    ) -> None:
        """item_counts (I,) and user_counts (U,): training events of each. head: of loss=hierarchical or cluster.

        bias: added to the logits here and nowhere else, so that nothing that serves knows of it.
        """
        self.settings = settings
        self.head = cast(Head | None, head)
        self.bias = bias
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

        times (B, T): when each target was chosen, where there is a bias of age.
        """
        settings = self.settings
        row, place = (targets != IGNORE).nonzero(as_tuple=True)  # (N,) each
        wanted = targets[row, place]  # (N,)
        queries = states[row, place] / settings.temperature  # (N, C)
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
            if self.bias is None or times is None:
                return linear_cross_entropy(queries, items, wanted, weights)
            every = torch.arange(len(items), device=queries.device)
            logits = queries @ items.T + self.bias(times[row, place][:, None], every)  # (N, I)
            return weighted_mean(token_losses(logits, wanted), weights)
        candidates = draw(
            len(items),
            uniform=settings.uniform_negatives,
            batch_items=wanted,
            in_batch=settings.in_batch_negatives,
            probability=self.probability,
            hard=hardest(queries, items, settings.hard_negatives) if settings.hard_negatives else None,
        )
        positive = (queries * items[wanted]).sum(dim=1)  # (N,)
        negative = queries @ items[candidates.ids].T  # (N, S)
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
