"""Answers scored in one row against the same answers scored one by one, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsysml.models import scoring
from recsysml.models.gpt import GPT
from recsysml.models.scoring import Request, _common_beginning, _mask, _Piece, _read, _row, log_likelihoods
from recsysml.schemas.models import GPTConfig

CPU = torch.device("cpu")
CONTEXT = 24
CONFIGS = {
    "gpt2": GPTConfig(size="nano", n_layers=2, n_heads=2, d_model=16, context_length=CONTEXT),
    "modern": GPTConfig(
        size="nano", n_layers=2, n_heads=4, d_model=32, context_length=CONTEXT, n_kv_heads=2, position="rope",
        norm="rmsnorm", mlp="swiglu", qk_norm=True, bias=False,
    ),
    "sdpa": GPTConfig(size="nano", n_layers=1, n_heads=2, d_model=16, context_length=CONTEXT, attention="sdpa"),
}  # fmt: skip
VOCAB = 50


@pytest.fixture(params=CONFIGS, scope="module")
def model(request):
    torch.manual_seed(5)
    model = GPT(CONFIGS[request.param], VOCAB)
    for p in model.parameters():  # far from uniform: the differences to be seen are large
        p.data.add_(0.15 * torch.randn_like(p))
    return model.eval()


def ids(generator, n):
    return torch.randint(0, VOCAB, (n,), generator=generator).tolist()


def brute_force(model, context, continuation):
    """One request by the definition: left-cut, one forward pass, log-softmax, gather."""
    both = [*context, *continuation][-(model.context_length + 1) :]
    logits = model.logits(torch.tensor([both[:-1]]))[0].double().log_softmax(-1)[-len(continuation) :]
    goal = torch.tensor(continuation)
    return logits[range(len(goal)), goal].sum().item(), bool((logits.argmax(-1) == goal).all())


def make_requests(seed):
    generator = torch.Generator().manual_seed(seed)
    requests = []
    for question in range(12):
        context = ids(generator, 1 + int(torch.randint(0, 18, (1,), generator=generator)))
        start = ids(generator, 2)  # two of the answers begin alike
        answers = [ids(generator, 1), start, start + ids(generator, 3), ids(generator, 5)]
        requests += [Request(context, answer, question) for answer in answers]
    requests += [Request(ids(generator, 30), ids(generator, n), "too long") for n in (1, 4, 24)]
    requests += [Request(ids(generator, n), ids(generator, 2), "nothing in common") for n in (3, 9)]
    requests.append(Request(ids(generator, 3), ids(generator, 1), "alone"))
    return requests


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("batch_size", "share"), [(None, True), (1, True), (3, True), (4, False)])
def test_scores_are_those_of_separate_rows(model, seed, batch_size, share):
    requests = make_requests(seed)
    told = []
    found = log_likelihoods(model, requests, device=CPU, batch_size=batch_size, share=share, done=told.append)
    expected = [brute_force(model, context, continuation) for context, continuation, _ in requests]
    assert [score.nats for score in found] == pytest.approx([nats for nats, _ in expected], abs=2e-4)
    assert [score.greedy for score in found] == [greedy for _, greedy in expected]
    assert sum(told) == len(requests)


def test_a_likeliest_continuation_is_called_so(model):
    context = [3, 1, 4]
    best = []
    for _ in range(3):
        best.append(int(model.logits(torch.tensor([context + best]))[0, -1].argmax()))
    other = [*best[:2], (best[2] + 1) % VOCAB]
    found = log_likelihoods(model, [Request(context, best, 0), Request(context, other, 0)], device=CPU)
    assert [score.greedy for score in found] == [True, False]


def test_the_work_is_shared(model):
    """The context of a question goes through the model once, and the head sees no token that predicts nothing."""
    seen = {"tokens": 0, "head": 0}

    class Counting:
        context_length, vocab_size = CONTEXT, VOCAB

        def packed(self, tokens, *rest):
            seen["tokens"] += len(rest[0])
            return model.packed(tokens, *rest)

        def unembed(self, hidden):
            seen["head"] += len(hidden)
            return model.unembed(hidden)

    context = list(range(10))
    answers = [[20 + i, 30, 31] for i in range(4)] + [[20, 32, 31]]  # the last begins like the first
    log_likelihoods(Counting(), [Request(context, answer, 0) for answer in answers], device=CPU)
    assert seen == {"tokens": 10 + 4 * 2 + 1, "head": 1 + 4 * 2 + 1}


@pytest.mark.parametrize("at_once", [1, 130, 1 << 20])
def test_log_softmax_of_chosen_places_however_many_rows_are_looked_at_together(at_once, monkeypatch):
    monkeypatch.setattr(scoring, "_ROWS_IN_CACHE", at_once)
    generator = torch.Generator().manual_seed(8)
    logits = 40 * torch.randn(30, 50, generator=generator)
    logits[3] = 1e4  # a row of equal ones, far from zero
    logits[4, 7] = -torch.inf
    place = torch.randint(30, (200,), generator=generator)
    place[:4] = torch.tensor([3, 3, 4, 4])
    wanted = torch.randint(50, (200,), generator=generator)
    wanted[:4] = torch.tensor([0, 1, 7, 8])
    found, likeliest = _read(logits, place, wanted)
    expected = logits.double().log_softmax(-1)[place, wanted]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    assert likeliest.tolist() == (logits.argmax(-1)[place] == wanted).tolist()
    assert likeliest[:3].tolist() == [True, False, False]


def test_half_the_batch_is_tried_where_memory_does_not_suffice(model):
    sizes = []

    class Tight:
        context_length, vocab_size = CONTEXT, VOCAB
        unembed = model.unembed

        def packed(self, tokens, *rest):
            sizes.append(len(tokens))
            if len(tokens) > 2:
                raise torch.OutOfMemoryError("too much")
            return model.packed(tokens, *rest)

    requests = make_requests(4)[:16]
    found = log_likelihoods(Tight(), requests, device=CPU)
    assert [score.nats for score in found] == pytest.approx(
        [brute_force(model, *request[:2])[0] for request in requests], abs=2e-4
    )
    assert max(sizes) > 2
    with pytest.raises(torch.OutOfMemoryError):
        log_likelihoods(Tight(), requests, device=CPU, batch_size=4)


def test_a_continuation_longer_than_the_context_is_scored_in_pieces(model):
    generator = torch.Generator().manual_seed(9)
    context, continuation = ids(generator, 3), ids(generator, 2 * CONTEXT + 5)
    found = log_likelihoods(model, [Request(context, continuation, 0), Request(context, [1, 2], 0)], device=CPU)
    whole = context + continuation
    pieces = [(whole[: 3 + i], continuation[i : i + CONTEXT]) for i in range(0, len(continuation), CONTEXT)]
    assert found[0].nats == pytest.approx(sum(brute_force(model, *piece)[0] for piece in pieces), abs=5e-4)
    assert found[1].nats == pytest.approx(brute_force(model, context, [1, 2])[0], abs=1e-4)


def test_what_cannot_be_scored(model):
    with pytest.raises(ValueError, match="cannot be scored"):
        log_likelihoods(model, [Request([1], [], 0)], device=CPU)
    assert log_likelihoods(model, [], device=CPU) == []


def test_what_several_answers_begin_with_is_there_once():
    """Against the definition: one token for each distinct beginning, which sees the tokens of its own beginning."""
    random = np.random.default_rng(7)
    pieces = [_Piece(i, np.array([5, 6, *random.integers(0, 3, size=random.integers(1, 7))]), np.array([1, 2]))
              for i in range(20)]  # fmt: skip
    row = _row(pieces)
    beginnings = {tuple(piece.inputs[: n + 1].tolist()) for piece in pieces for n in range(len(piece.inputs))}
    seen = _mask(torch.from_numpy(row.ends)[None])[0, 0] == 0
    found = [tuple(row.tokens[sees].tolist()) for sees in seen.numpy()]
    assert len(found) == len(beginnings)
    assert set(found) == beginnings
    assert row.positions.tolist() == [len(beginning) - 1 for beginning in found]
    for owner, source in zip(row.requests.tolist(), row.sources.tolist(), strict=True):
        assert found[source] == tuple(pieces[owner].inputs.tolist())[: len(found[source])]
    for piece in pieces:  # the last two inputs predict the two targets
        at = row.sources[row.requests == piece.owner]
        assert [len(found[i]) for i in at] == [len(piece.inputs) - 1, len(piece.inputs)]
    whole = np.array([1, 2, 3, 4])
    assert [_common_beginning(whole, np.array(other)) for other in ([1, 2, 5], [1, 2, 3], [2], [])] == [2, 3, 0, 0]
