"""Rows that share a part, multiplied once, against the same rows written out."""

import pytest
import torch
import torch.nn.functional as F

from recsysml.nn import deduplicated as module
from recsysml.nn.deduplicated import alike, deduplicated, linear


def drawn(seed, distinct, n=40, columns=5):
    """(n, columns) ids of so many distinct rows, each of them there."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 3, (distinct, columns), generator=g)
    rows[:, 0] = torch.arange(distinct)
    which = torch.cat([torch.arange(distinct), torch.randint(0, distinct, (n - distinct,), generator=g)])
    return rows[which[torch.randperm(n, generator=g)]]


@pytest.mark.parametrize(("seed", "distinct"), [(0, 1), (1, 3), (2, 16)])
def test_rows_that_are_alike_are_found(seed, distinct):
    ids = drawn(seed, distinct)
    found = alike(ids)
    assert len(found.first) == len(found.begins) == len(torch.unique(ids, dim=0)) == distinct
    assert torch.equal(ids[found.first][found.of_row], ids)
    assert sorted(found.order.tolist()) == list(range(len(ids)))
    ends = [*found.begins[1:].tolist(), len(ids)]
    for group, (begin, end) in enumerate(zip(found.begins.tolist(), ends, strict=True)):
        assert (found.of_row[found.order[begin:end]] == group).all()
        assert end > begin


def test_where_it_gains_nothing_or_would_be_wrong_there_are_no_groups(monkeypatch):
    assert alike(drawn(0, 17)) is None  # more than two fifths
    assert alike(drawn(0, 3)[:0]) is None
    assert alike(drawn(0, 3).to("meta")) is None  # as on a GPU
    with monkeypatch.context() as compiled:
        compiled.setattr(torch.compiler, "is_compiling", lambda: True)
        assert alike(drawn(0, 3)) is None
    ids = drawn(0, 3)
    monkeypatch.setattr(module, "_factors", lambda n: ids.numpy()[0] * 0)  # every row has the key 0
    assert alike(ids) is None
    assert alike(ids[:1].expand(40, -1).contiguous()) is not None  # as it should be where they are one


def both(seed, autocast=False, bias=True):
    """The layer's output and every gradient, of the deduplicated input and of the one written out."""
    torch.manual_seed(seed)
    ids = drawn(seed, 7)
    groups = alike(ids)
    common, own, given = torch.randn(7, 6), torch.randn(40, 4), torch.randn(40, 3)
    weight, above = torch.randn(9, 13), torch.randn(40, 9)
    leaves = [common, own, weight, *([torch.randn(9)] if bias else [])]
    found = []
    for written_out in (False, True):
        common, own, weight, *biases = (leaf.clone().requires_grad_() for leaf in leaves)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            x = deduplicated(common, groups, own, given)
            if written_out:
                x = torch.cat([common[groups.of_row], own, given], dim=1)
            out = linear(x, weight, *biases)
        assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
        out.backward(above.to(out.dtype))
        found.append([out, *(leaf.grad for leaf in (common, own, weight, *biases))])
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_layer_gives_what_it_gives_of_the_rows_written_out(seed, bias):
    for once, plain in zip(*both(seed, bias=bias), strict=True):
        torch.testing.assert_close(once, plain, atol=1e-5, rtol=1e-5)


def test_under_autocast_it_is_as_close_as_bfloat16_is():
    for once, plain in zip(*both(3, autocast=True), strict=True):
        assert once.dtype == plain.dtype
        torch.testing.assert_close(once.float(), plain.float(), atol=0.2, rtol=0.02)


def test_a_groups_gradient_is_a_sum_in_float32():
    """A thousand ones: in bfloat16 a sum of them stays at 256."""
    rows = 1000
    groups = alike(torch.zeros(rows, 2, dtype=torch.int64))
    weight = torch.ones(1, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        x = deduplicated(torch.ones(1, 1), groups, torch.zeros(rows, 1), torch.zeros(rows, 0))
        linear(x, weight).sum().backward()
    assert weight.grad[0, 0] == rows


def test_a_plain_input_is_a_plain_layer():
    x, weight, bias = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
