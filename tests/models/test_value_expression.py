"""Value expressions against Python's own arithmetic and, under the exit process, against every order there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recsysml.errors import ConfigError
from recsysml.models.value_expression import ValueExpression, split_order

TASKS = ["click", "like", "leave", "skip"]


@pytest.mark.parametrize(
    "text",
    [
        "p_like / p_leave",
        "p_like * (1 - p_skip)",
        "0.3*p_click + 2*p_like - -p_skip",
        "max(p_click, 0.5) ** 2 + min(p_like, p_skip)",
        "log(1 + exp(p_click)) / sqrt(p_leave)",
    ],
)
def test_it_is_pythons_arithmetic(text: str) -> None:
    torch.manual_seed(0)
    p = {task: torch.rand(4, 3, dtype=torch.float64) * 0.98 + 0.01 for task in TASKS}
    found = ValueExpression(text, TASKS)(p)
    assert found.shape == (4, 3)
    functions = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "min": min, "max": max}
    for at in itertools.product(range(4), range(3)):
        names = {f"p_{task}": float(values[at]) for task, values in p.items()}
        assert float(found[at]) == pytest.approx(eval(text, functions, names))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p_lik / p_leave", "Did you mean: p_like?"),
        ("p_like / ", "is no expression at character"),
        ("__import__('os').system('true')", "is no function here"),
        ("p_like.mean", "character 1: p_like.mean is not understood"),
        ("p_like if p_skip else 1", "is not understood"),
        ("p_like + True", "character 10: True is not understood"),
        ("[p_like for p_like in p_click]", "is not understood"),
        ("max(p_like)", "max takes 2 arguments, not 1"),
        ("exp(p_like, base=2)", "is no function here"),
        ("'a' * p_like", "is not understood"),
        ("1 + 2", "names no probability"),
        ("p_like // 2", "is not understood"),
        ("(" * 300 + "p_like" + ")" * 300, "is no expression"),
        ("p_like + " * 200 + "1", "characters"),
    ],
)
def test_everything_else_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ValueExpression(text, TASKS)
    assert said in str(refused.value) and str(refused.value).startswith("model.expression")
    assert "\n" not in str(refused.value)


def test_a_value_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="no finite value for 1 of 2"):
        ValueExpression("p_like / p_leave", TASKS)({"like": torch.ones(2), "leave": torch.tensor([0.0, 0.5])})


@pytest.mark.parametrize("seed", range(6))
def test_reward_over_exit_is_the_best_of_all_orders(seed: int) -> None:
    """Exit probabilities reach far below .1, where a floor under them would put items in a worse order."""
    torch.manual_seed(seed)
    like = torch.rand(20, 5, dtype=torch.float64)
    leave = torch.exp(-6 * torch.rand(20, 5, dtype=torch.float64))
    ratio = ValueExpression("p_like / p_leave", TASKS)
    floored = ValueExpression("p_like / max(p_leave, 0.1)", TASKS)

    def worth(order: torch.Tensor) -> torch.Tensor:
        reward, stays = like.gather(1, order), 1 - leave.gather(1, order)
        there = torch.cat([torch.ones(20, 1, dtype=torch.float64), stays.cumprod(dim=1)[:, :-1]], dim=1)
        return (there * reward).sum(dim=1)

    orders = [torch.tensor(order).expand(20, 5) for order in itertools.permutations(range(5))]
    best = torch.stack([worth(order) for order in orders]).max(dim=0).values
    p = {"like": like, "leave": leave}
    torch.testing.assert_close(worth(ratio(p).argsort(dim=1, descending=True)), best)
    assert (worth(floored(p).argsort(dim=1, descending=True)) < best - 1e-9).any()


def test_a_split_gives_the_top_to_one_value_and_the_rest_to_another() -> None:
    torch.manual_seed(1)
    top, rest = torch.rand(5, 6), torch.rand(5, 6)
    order = split_order(top, rest, 2)
    for row in range(5):
        first = sorted(range(6), key=lambda item: -top[row, item])[:2]
        left = sorted(set(range(6)) - set(first), key=lambda item: -rest[row, item])
        assert order[row].tolist() == first + left
