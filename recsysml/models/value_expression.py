"""A value of an item from the probabilities of what may come of it, written as an expression: `p_like / p_leave`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from recsysml.schemas.value_expression import ParsedExpression

_OPERATORS: dict[type[ast.operator], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "min": torch.minimum,
    "max": torch.maximum,
}


class ValueExpression:
    """A checked expression; called with the tasks' probabilities it gives the values.

    Reward over risk ranks by how much is gained for each chance of losing the user: on a slate that is left with
    p_leave after each item, r / p_leave is the best order there is. The risk is divided by as it is; a floor under it
    would undo that.
    """

    def __init__(self, text: str, tasks: Sequence[str], key: str = "model.expression") -> None:
        """As `ParsedExpression`, whose errors it raises."""
        self._parsed = ParsedExpression(text, tasks, key)
        self.tasks = self._parsed.tasks

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """task -> its probabilities, all of one shape -> values of that shape.

        Raises ValueError where a value is not finite, such as a division by a probability that is 0.
        """
        like = probabilities[self.tasks[0]]
        values = self._value(self._parsed.tree, probabilities, like).expand_as(like)
        if not torch.isfinite(values).all():
            wrong = int((~torch.isfinite(values)).sum())
            which = f"{self._parsed.key}={self._parsed.text!r}"
            raise ValueError(f"{which} has no finite value for {wrong} of {values.numel()} items")
        return values

    def _value(self, node: ast.expr, probabilities: Mapping[str, Tensor], like: Tensor) -> Tensor:
        if isinstance(node, ast.BinOp):
            left, right = (self._value(side, probabilities, like) for side in (node.left, node.right))
            return _OPERATORS[type(node.op)](left, right)
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, probabilities, like)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int | float)
            return like.new_tensor(float(node.value))
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            return _FUNCTIONS[node.func.id](*(self._value(each, probabilities, like) for each in node.args))
        assert isinstance(node, ast.Name)
        return probabilities[self._parsed.names[node.id]]


def split_order(top: Tensor, rest: Tensor, n_top: int) -> Tensor:
    """Order of items (R, M): the first n_top by `top`, those left by `rest`, both values (R, M), largest first."""
    order = torch.argsort(top, dim=1, descending=True, stable=True)
    first, left = order[:, :n_top], order[:, n_top:]
    place = torch.argsort(rest.gather(1, left), dim=1, descending=True, stable=True)
    return torch.cat([first, left.gather(1, place)], dim=1)
