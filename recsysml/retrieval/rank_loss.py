"""What the second stage of a retriever learns from: its candidates' order, by what was chosen and by a teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsysml.data.sequence_batches import IGNORE
from recsysml.models.histories import Histories
from recsysml.models.retriever import Retriever
from recsysml.models.stages import events_of


class RankLoss:
    """Of `rows` places of a batch, evenly spread over its real targets; nothing of it reaches stage one.

    The ranker is shown what it will be shown: a place's nearest items, without those seen where `mask_seen` will leave
    them out, and not the target where stage one does not find it. Such a place has a teacher's word alone.
    """

    def __init__(self, model: Any, teacher: Retriever | None, *, mask_seen: bool) -> None:
        self.model, self.teacher, self.mask_seen = model, teacher, mask_seen
        self.share = model.config.distillation if teacher is not None else 0.0

    def __call__(self, states: Tensor, items: Tensor, inputs: Tensor, targets: Tensor, users: Tensor) -> Tensor:
        """states (B, T, C), items (I, C), inputs and targets (B, T), users (B,) -> a scalar.

        (1 - share) cross-entropy of the target among the candidates + share x that of the teacher's softmax, its scores
        standardised over the candidates, since a teacher's scores have any scale.
        """
        config = self.model.config
        states, items = states.detach(), items.detach()
        row, place = (targets != IGNORE).nonzero(as_tuple=True)  # (M,) each
        # without a draw: the random numbers of stage one are those it has alone
        chosen = torch.arange(min(config.ranker_rows, len(row)), device=row.device) * len(row)
        chosen = chosen // max(1, min(config.ranker_rows, len(row)))
        row, place = row[chosen], place[chosen]  # (N,)
        queries, wanted = states[row, place], targets[row, place]  # (N, C), (N,)
        past = inputs[row].clone()  # (N, T)
        past[torch.arange(past.shape[1], device=past.device) > place[:, None]] = len(items)
        products = queries @ items.T  # (N, I)
        if self.mask_seen:  # the start token is in a column of its own, which falls away
            seen = torch.zeros(len(past), len(items) + 1, dtype=torch.bool, device=past.device)
            products = products.masked_fill(seen.scatter_(1, past, True)[:, :-1], -torch.inf)
        candidates = products.topk(min(config.n_candidates, len(items)), dim=1)
        real = candidates.values > -torch.inf  # (N, K)
        scores = self.model.ranker(queries, items[candidates.indices], *events_of(items, past))  # (N, K)
        log_shares = F.log_softmax(scores.masked_fill(~real, -torch.inf), dim=1).masked_fill(~real, 0.0)
        hit = (candidates.indices == wanted[:, None]) & real
        # once no target is found the sum is 0 and still hangs on all weights
        loss = -(1 - self.share) * (log_shares * hit).sum() / hit.sum().clamp(min=1)
        if self.teacher is not None and self.share:
            told = self._told(past, users[row], candidates.indices, len(items))
            loss = loss - self.share * (_softmax(told, real) * log_shares).sum(dim=1).mean()
        return loss

    def _told(self, past: Tensor, users: Tensor, candidates: Tensor, n_items: int) -> Tensor:
        """The teacher's scores (N, K) of candidates, for pasts (N, T) of items or `n_items`, and users (N,)."""
        assert self.teacher is not None
        known = (past < n_items).cpu().numpy()
        offsets = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
        events = past.cpu().numpy()[known]
        rows = Histories(users.cpu().numpy(), offsets, events, np.arange(len(events), dtype=np.float64))
        scores = torch.from_numpy(np.asarray(self.teacher.scores(rows), dtype=np.float32))
        return scores.to(candidates.device).gather(1, candidates)


def _softmax(scores: Tensor, real: Tensor) -> Tensor:
    """(N, K) -> shares of each row's real places, of scores with mean 0 and standard deviation 1 over them."""
    n = real.sum(dim=1, keepdim=True).clamp(min=1)
    centred = (scores - scores.where(real, 0.0).sum(dim=1, keepdim=True) / n).where(real, 0.0)
    spread = (centred.square().sum(dim=1, keepdim=True) / n).sqrt().clamp(min=1e-6)
    return (centred / spread).masked_fill(~real, -torch.inf).softmax(dim=1).masked_fill(~real, 0.0)
