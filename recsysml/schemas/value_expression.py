"""The grammar of value expressions, such as `p_like / p_leave`: parsed by Python's and walked node by node.

Numbers, names `p_<task>`, `+ - * / **`, brackets and a few functions are all there is; nothing of it is ever run.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import NoReturn

from recsysml.errors import ConfigError
from recsysml.schemas.checks import nearest

OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
# function -> how many arguments it takes
FUNCTIONS = {"exp": 1, "log": 1, "sqrt": 1, "min": 2, "max": 2}
_LONGEST = 1000


class ParsedExpression:
    """A checked expression: `tree`, whose nodes are BinOp, UnaryOp, Constant, Call and Name, and the tasks it names."""

    def __init__(self, text: str, tasks: Sequence[str], key: str = "model.expression") -> None:
        """tasks: those whose probabilities may be named, `p_<task>` each. key: what an error begins with.

        Raises ConfigError, one line that names the place, for anything else.
        """
        self.text, self.key = text, key
        self.names = {f"p_{task}": task for task in tasks}
        if len(text) > _LONGEST:
            raise ConfigError(f"{key} has {len(text)} characters: at most {_LONGEST} are taken.")
        try:
            self.tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
            raise ConfigError(f"{key}={text!r} is no expression{place}: write one such as p_like / p_leave.") from None
        try:
            self._check(self.tree)
        except RecursionError:
            raise ConfigError(f"{key} is nested too deep to be read.") from None
        found = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)} & set(self.names)
        self.tasks = sorted(self.names[name] for name in found)
        if not self.tasks:
            raise ConfigError(f"{key}={text!r} names no probability: it would be the same for every item.")

    def _check(self, node: ast.expr) -> None:
        if isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            self._check(node.operand)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float) and abs(node.value) < 1e30:  # type: ignore[arg-type,operator]
            return
        elif isinstance(node, ast.Name):
            if node.id not in self.names:
                near = nearest(node.id, self.names)
                hint = f"Did you mean: {near}? " if near else ""
                self._refuse(node, f"{node.id} is none of the probabilities. {hint}There are {', '.join(self.names)}")
        elif isinstance(node, ast.Call):
            self._check_call(node)
        else:
            there_are = f"+ - * / **, brackets, {', '.join(FUNCTIONS)}, numbers and p_<task>"
            self._refuse(node, f"{ast.unparse(node)} is not understood; there are {there_are}")

    def _check_call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS or node.keywords:
            self._refuse(node, f"{name} is no function here; there are {', '.join(FUNCTIONS)}")
        if len(node.args) != (takes := FUNCTIONS[name]):
            self._refuse(node, f"{name} takes {takes} argument{'s' if takes > 1 else ''}, not {len(node.args)}")
        for argument in node.args:
            self._check(argument)

    def _refuse(self, node: ast.expr, why: str) -> NoReturn:
        raise ConfigError(f"{self.key}={self.text!r}, character {node.col_offset + 1}: {why}.")
