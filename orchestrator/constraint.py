"""Constraints between parameters: a comparison of expressions, as text, read with `ast` and never run as code.

    optimizer.lr * batch_size <= 4
    depth < 6 or width <= 256
    warmup_epochs + cooldown_epochs < 0.5 * epochs
    norm != 'batch' or batch_size >= 16

Names of parameters, numbers, text, True, False and None; `+ - * / // % **`; `abs`, `log`, `log2`, `log10`, `max`,
`min`, `round`, `sqrt` and, of a list, `len` and `sum`; `< <= == != > >=`, `in [...]` and `not in [...]`; `and`,
`or`, `not`, parentheses. A constraint on a parameter that is not active holds.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.naming import hint
from orchestrator.parameter import Parameter
from orchestrator.plain import same, settle

MAX_LENGTH = 500
"""Characters of a constraint; Python's parser may run out of stack on endless parentheses."""

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: float(base) ** float(exponent),  # whole numbers could take for ever
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "len": len,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
    "sum": sum,
}
_OF_LISTS = ("len", "sum", "max", "min")
_NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
# Below which a difference counts as none: 0.1 + 0.2 is 0.3.
_SLACK = 1e-9


@dataclass(frozen=True, repr=False)
class Constraint:
    """What has to hold between the values of a configuration.

    Attributes:
        text: the expression; kept as `ast` writes it, so that spacing makes no difference.
    """

    text: str
    names: frozenset[str] = field(init=False, compare=False)
    """The parameters it is about."""
    _tree: ast.expr | None = field(init=False, compare=False)
    _problem: str | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        tree, problem = _parse(self.text)
        names = frozenset() if tree is None else frozenset(_names(tree))
        written = ast.unparse(tree) if tree is not None else self.text
        settle(self, text=written, names=names, _tree=tree, _problem=problem)

    def __str__(self) -> str:
        return str(self.text)

    def __repr__(self) -> str:
        return repr(self.text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text,)

    def problems(self, parameters: Mapping[str, Parameter]) -> list[str]:
        """The rules it breaks among those parameters, each a phrase that the constraint goes in front of."""
        if self._problem is not None or self._tree is None:
            return [self._problem or ""]
        if unknown := [name for name in sorted(self.names) if name not in parameters]:
            options = {value for each in parameters.values() if each.kind == "choice" for value in each.values()
                       if isinstance(value, str)}  # fmt: skip
            return [
                f"is on {name!r}, which is no parameter; "
                + (f"text is written as '{name}', with quotes" if name in options else hint(name, list(parameters)))
                for name in unknown
            ]
        if not self.names:
            return ["is on no parameter; name one, or drop it"]
        return list(_misuses(self._tree, parameters))

    def violation(self, params: Mapping[str, Any]) -> float:
        """How far `params` are from fulfilling it: at most 0 where they do, as Optuna counts.

        One on a parameter that is not in `params` is fulfilled; one that cannot be computed, as a division by 0, is
        infinitely far.
        """
        if self._tree is None or not all(name in params for name in self.names):
            return 0.0
        try:
            found = float(_violation(self._tree, params))
        except (ArithmeticError, ValueError, TypeError):
            return math.inf
        return math.inf if math.isnan(found) else found

    def renamed(self, new_name: Callable[[str], str]) -> Constraint:
        """The same constraint on parameters of other names."""
        if self._tree is None:
            return self
        return Constraint(ast.unparse(_Renamer(new_name).visit(ast.parse(self.text, mode="eval"))))


def as_constraint(given: Any) -> Constraint:
    """The constraint that text says; one as it is."""
    return given if isinstance(given, Constraint) else Constraint(given)


class _Renamer(ast.NodeTransformer):
    def __init__(self, new_name: Callable[[str], str]) -> None:
        self._new_name = new_name

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.args = [self.visit(argument) for argument in node.args]
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.parse(self._new_name(node.id), mode="eval").body

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.parse(self._new_name(ast.unparse(node)), mode="eval").body


def _parse(text: object) -> tuple[ast.expr | None, str | None]:
    """The expression, or why it is none that is allowed."""
    if not isinstance(text, str) or not text.strip():
        return None, "is no text; write one such as 'lr * batch_size <= 1'"
    if len(text) > MAX_LENGTH:
        return None, f"is {len(text)} characters long; at most {MAX_LENGTH} are allowed"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        if re.search(r"[^<>=!]=[^=]", text):
            return None, "has '=', which compares nothing; write '=='"
        return None, f"is no expression ({getattr(exc, 'msg', exc)}); write one such as 'lr * batch_size <= 1'"
    return (tree, None) if (problem := _forbidden_condition(tree)) is None else (None, problem)


def _forbidden_condition(node: ast.expr) -> str | None:
    """What is not allowed where something has to hold, or None."""
    match node:
        case ast.BoolOp(values=parts):
            return next(filter(None, map(_forbidden_condition, parts)), None)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return _forbidden_condition(part)
        case ast.Compare(left=left, ops=ops, comparators=others):
            if any(type(op) not in _NEGATED for op in ops):
                return f"compares in a way that is not allowed, '{ast.unparse(node)}'; use < <= == != > >= or in"
            return next(filter(None, map(_forbidden_value, [left, *others])), None)
        case _:
            return f"compares nothing in '{ast.unparse(node)}'; write one such as 'lr * batch_size <= 1'"


def _forbidden_value(node: ast.expr) -> str | None:
    """What is not allowed where a value is computed, or None."""
    parts: list[ast.expr]
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None) | ast.Name():
            return None
        case ast.Attribute() if _dotted(node) is not None:
            return None
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            pass
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            parts = [left, right]
        case ast.UnaryOp(op=op, operand=part) if type(op) in _OPERATORS:
            parts = [part]
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]) if parts:
            if name not in _FUNCTIONS:
                return f"calls '{name}', which there is none of; {hint(name, list(_FUNCTIONS))}"
        case _:
            return f"has '{ast.unparse(node)}', which is not allowed in a constraint"
    return next(filter(None, map(_forbidden_value, parts)), None)


def _dotted(node: ast.expr) -> str | None:
    """`optimizer.lr` of a name with dots, else None."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr) if (start := _dotted(value)) is not None:
            return f"{start}.{attr}"
        case _:
            return None


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name | ast.Attribute):
        yield _dotted(node) or ""
        return
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    for child in children:
        yield from _names(child)


def _misuses(tree: ast.expr, parameters: Mapping[str, Parameter]) -> Iterator[str]:
    """Arithmetic and order on parameters that are not numbers."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(left=left, right=right):
                used = [left, right]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=part):
                used = [part]
            case ast.Compare(left=left, ops=[ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE()], comparators=[right]):
                used = [left, right]
            case ast.Call(func=ast.Name(id=function), args=args) if function not in _OF_LISTS:
                used = args
            case _:
                continue
        for each in used:
            name = _dotted(each)
            if name is not None and not _is_numeric(parameters[name]):
                yield f"computes with {name!r}, which is not always a number: {parameters[name].describe()}"
            elif isinstance(each, ast.Constant) and not isinstance(each.value, int | float):
                yield f"computes with {each.value!r}, which is not a number"


def _is_numeric(parameter: Parameter) -> bool:
    if parameter.kind in ("float", "int"):
        return True
    return all(isinstance(value, int | float) for value in parameter.values())


def _violation(node: ast.expr, params: Mapping[str, Any], negated: bool = False) -> float:
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return _violation(part, params, not negated)
        case ast.BoolOp(op=op, values=parts):
            found = [_violation(part, params, negated) for part in parts]
            return max(found) if isinstance(op, ast.And) is not negated else min(found)
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(each, params) for each in (left, *others)]
            found = [
                _distance(values[index], _NEGATED[type(op)] if negated else type(op), values[index + 1])
                for index, op in enumerate(ops)
            ]
            return min(found) if negated else max(found)
        case _:
            raise TypeError(ast.unparse(node))


def _value(node: ast.expr, params: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, params) for part in parts]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_number(_value(left, params)), _number(_value(right, params)))
        case ast.UnaryOp(op=op, operand=part):
            return _OPERATORS[type(op)](_number(_value(part, params)))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_value(arg, params) for arg in args))
        case _:
            return params[_dotted(node) or ""]


def _number(value: Any) -> Any:
    """A number as it is: `2 * 'a'` is Python, but no arithmetic."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _distance(left: Any, relation: type[ast.cmpop], right: Any) -> float:
    """How far two values are from being in a relation; at most 0 where they are."""
    if relation in (ast.In, ast.NotIn):
        return float(any(same(left, each) for each in right) is not (relation is ast.In))
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if relation in (ast.Eq, ast.NotEq):
        equal = math.isclose(left, right, rel_tol=_SLACK) if numbers else same(left, right)
        if relation is ast.NotEq:
            return float(equal)
        return 0.0 if equal else abs(left - right) if numbers else 1.0
    difference = _number(left) - _number(right)
    if relation in (ast.Gt, ast.GtE):
        difference = -difference
    close = math.isclose(left, right, rel_tol=_SLACK)
    if relation in (ast.LtE, ast.GtE):
        return 0.0 if close and difference > 0 else float(difference)
    return _SLACK if close else float(difference)
