"""A value of an item from the probabilities of what may come of it, written as an expression: `p_like / p_leave`.

Numbers, names `p_<task>`, `+ - * / **`, brackets and `exp log sqrt min max` are all there is. The text is parsed by
Python's grammar and walked node by node: nothing of it is ever run.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from recsysml.errors import ConfigError
from recsysml.schemas.checks import nearest

_PAIRS: dict[type[ast.operator], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
# name -> how many arguments it takes
_FUNCTIONS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "exp": (torch.exp, 1),
    "log": (torch.log, 1),
    "sqrt": (torch.sqrt, 1),
    "min": (torch.minimum, 2),
    "max": (torch.maximum, 2),
}
_LONGEST = 1000


class ValueExpression:
    """A checked expression; called with the tasks' probabilities it gives the values.

    Reward over risk ranks by how much is gained for each chance of losing the user: on a slate that is left with
    p_leave after each item, r / p_leave is the best order there is. The risk is divided by as it is; a floor under it
    would undo that.
    """

    def __init__(self, text: str, tasks: Sequence[str], key: str = "model.expression") -> None:
        """tasks: those whose probabilities may be named, `p_<task>` each. key: what an error begins with.

        Raises ConfigError, one line that names the place, for anything else.
        """
        self.text, self._key = text, key
        self._names = {f"p_{task}": task for task in tasks}
        if len(text) > _LONGEST:
            raise ConfigError(f"{key} has {len(text)} characters: at most {_LONGEST} are taken.")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
            raise ConfigError(f"{key}={text!r} is no expression{place}: write one such as p_like / p_leave.") from None
        try:
            self._check(self._tree)
        except RecursionError:
            raise ConfigError(f"{key} is nested too deep to be read.") from None
        self.tasks = sorted({self._names[node.id] for node in ast.walk(self._tree) if self._is_probability(node)})
        if not self.tasks:
            raise ConfigError(f"{key}={text!r} names no probability: it would be the same for every item.")

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """task -> its probabilities, all of one shape -> values of that shape.

        Raises ValueError where a value is not finite, such as a division by a probability that is 0.
        """
        like = probabilities[self.tasks[0]]
        values = self._value(self._tree, probabilities, like).expand_as(like)
        if not torch.isfinite(values).all():
            wrong = int((~torch.isfinite(values)).sum())
            raise ValueError(f"{self._key}={self.text!r} has no finite value for {wrong} of {values.numel()} items")
        return values

    def _is_probability(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in self._names

    def _check(self, node: ast.expr) -> None:
        if isinstance(node, ast.BinOp) and type(node.op) in _PAIRS:
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            self._check(node.operand)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float) and abs(node.value) < 1e30:
            return
        elif isinstance(node, ast.Name):
            if node.id not in self._names:
                near = nearest(node.id, self._names)
                hint = f"Did you mean: {near}? " if near else ""
                self._refuse(node, f"{node.id} is none of the probabilities. {hint}There are {', '.join(self._names)}")
        elif isinstance(node, ast.Call):
            self._check_call(node)
        else:
            self._refuse(node, f"{ast.unparse(node)} is not understood; there are + - * / **, brackets, "
                         f"{', '.join(_FUNCTIONS)}, numbers and p_<task>")  # fmt: skip

    def _check_call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in _FUNCTIONS or node.keywords:
            self._refuse(node, f"{name} is no function here; there are {', '.join(_FUNCTIONS)}")
        if len(node.args) != (takes := _FUNCTIONS[name][1]):
            self._refuse(node, f"{name} takes {takes} argument{'s' if takes > 1 else ''}, not {len(node.args)}")
        for argument in node.args:
            self._check(argument)

    def _refuse(self, node: ast.expr, why: str) -> None:
        raise ConfigError(f"{self._key}={self.text!r}, character {node.col_offset + 1}: {why}.")

    def _value(self, node: ast.expr, probabilities: Mapping[str, Tensor], like: Tensor) -> Tensor:
        if isinstance(node, ast.BinOp):
            sides = (self._value(side, probabilities, like) for side in (node.left, node.right))
            return _PAIRS[type(node.op)](*sides)
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, probabilities, like)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int | float)
            return like.new_tensor(float(node.value))
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            return _FUNCTIONS[node.func.id][0](*(self._value(each, probabilities, like) for each in node.args))
        assert isinstance(node, ast.Name)
        return probabilities[self._names[node.id]]


def split_order(top: Tensor, rest: Tensor, n_top: int) -> Tensor:
    """Order of items (R, M): the first n_top by `top`, those left by `rest`, both values (R, M), largest first."""
    order = torch.argsort(top, dim=1, descending=True, stable=True)
    first, left = order[:, :n_top], order[:, n_top:]
    place = torch.argsort(rest.gather(1, left), dim=1, descending=True, stable=True)
    return torch.cat([first, left.gather(1, place)], dim=1)
