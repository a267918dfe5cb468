"""Small faults that can be put into a Python file: what `run_mutants.py` runs the tests against.

Not mutated: type annotations, decorators, messages (f-strings and what a `raise` holds), strings other than those that are compared
or passed by keyword, and ``strict=`` of `zip`, which is a check of our own.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_PAIRS = [
    ("min", "max"),
    ("minimum", "maximum"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("clamp_min", "clamp_max"),
    ("floor", "ceil"),
    ("any", "all"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("new_zeros", "new_ones"),
    ("log", "log1p"),
    ("exp", "expm1"),
    ("sum", "mean"),
]
SWAPPED = dict(_PAIRS) | {b: a for a, b in _PAIRS}
SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_params"}


@dataclass(frozen=True)
class Mutant:
    """One fault: the replacement of the `index`-th candidate of a file."""

    path: str  # relative to the root
    index: int
    line: int
    last_line: int
    text: str  # of the line, without its indentation
    change: str  # "x < y -> x <= y"
    occurrence: int  # among the equal changes of equal lines of the file

    @property
    def lines(self) -> range:
        return range(self.line, self.last_line + 1)

    @property
    def key(self) -> str:
        """Stays the same while other lines of the file change."""
        return hashlib.sha1(f"{self.path}|{self.text}|{self.change}|{self.occurrence}".encode()).hexdigest()[:16]


@dataclass
class Candidate:
    parent: ast.AST
    field: str
    position: int | None  # in a list
    old: ast.AST
    new: ast.AST

    def apply(self) -> None:
        for node in ast.walk(self.new):
            if not hasattr(node, "lineno"):
                ast.copy_location(node, self.old)
        if self.position is None:
            setattr(self.parent, self.field, self.new)
        else:
            getattr(self.parent, self.field)[self.position] = self.new

    def describe(self) -> str:
        if isinstance(self.new, ast.Pass):
            return f"remove {ast.unparse(self.old)}"
        return f"{_shown(self.old)} -> {_shown(self.new)}"


def mutants_of(root: Path, path: str) -> list[Mutant]:
    source = (root / path).read_text()
    lines = source.splitlines()
    seen: dict[tuple[str, str], int] = {}
    found = []
    for index, c in enumerate(candidates(ast.parse(source))):
        line: int = c.old.lineno  # type: ignore[attr-defined]
        text, change = lines[line - 1].strip(), c.describe()
        occurrence = seen[text, change] = seen.get((text, change), -1) + 1
        found.append(Mutant(path, index, line, _last_line(c.old), text, change, occurrence))
    return found


def compiled(root: Path, path: str, index: int | None) -> CodeType:
    """The module's code with the fault of that index, or without one."""
    file = root / path
    tree = ast.parse(file.read_text())
    if index is not None:
        next(c for i, c in enumerate(candidates(tree)) if i == index).apply()
    return compile(ast.fix_missing_locations(tree), str(file), "exec", dont_inherit=True)


def candidates(tree: ast.AST) -> Iterator[Candidate]:
    for field, value in ast.iter_fields(tree):
        if field in SKIPPED_FIELDS:
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for position, child in children:
            if not isinstance(child, ast.AST) or _is_skipped(child):
                continue
            for new in _alternatives(child, tree, field):
                yield Candidate(tree, field, position, child, new)
            if not isinstance(child, ast.Raise) and not _is_negative_number(child):
                yield from candidates(child)


def _alternatives(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    if isinstance(node, ast.expr) and _is_condition(parent, field) and not _is_negated_by_itself(node):
        yield ast.UnaryOp(ast.Not(), node)
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS and not _is_text(left) and not _is_text(right):
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:i], COMPARISONS[type(op)](), *ops[i + 1 :]], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.Invert(), operand):
            yield operand
        case ast.UnaryOp(ast.USub(), operand):
            yield ast.UnaryOp(ast.USub(), _other_number(operand.value)) if _is_negative_number(node) else operand
        case ast.Constant(value) if isinstance(value, bool | int | float):
            yield _other_number(value)
        case ast.Constant(str(value)) if isinstance(parent, ast.Compare | ast.keyword):
            yield ast.Constant(value + "?")
        case ast.Name(name, ctx) if name in SWAPPED and isinstance(ctx, ast.Load):
            if name in ("min", "max", "any", "all", "sum") and field == "func":
                yield ast.Name({"sum": "max"}.get(name, SWAPPED[name]), ctx)
        case ast.Attribute(value, name, ctx) if name in SWAPPED and field == "func":
            yield ast.Attribute(value, SWAPPED[name], ctx)
        case ast.Return(value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call() | ast.YieldFrom()) | ast.Raise() | ast.AugAssign():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def _other_number(value: Any) -> ast.Constant:
    if isinstance(value, bool):
        return ast.Constant(not value)
    if isinstance(value, int):
        return ast.Constant(value + 1)
    return ast.Constant(2 * value if value else 1.0)


def _is_skipped(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr() | ast.Assert() | ast.keyword(arg="strict"):
            return True
        case ast.Expr(ast.Constant()):  # docstrings
            return True
        case ast.Assign([ast.Name("__all__")]):
            return True
    return False


def _is_condition(parent: ast.AST, field: str) -> bool:
    return (isinstance(parent, ast.If | ast.While | ast.IfExp) and field == "test") or (
        isinstance(parent, ast.comprehension) and field == "ifs"
    )


def _is_negated_by_itself(node: ast.expr) -> bool:
    """Another mutation of this node is its negation."""
    equalities = ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
    if isinstance(node, ast.Compare):
        return len(node.ops) == 1 and isinstance(node.ops[0], equalities)
    return (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)) or isinstance(node, ast.Constant)


def _is_negative_number(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _last_line(node: ast.AST) -> int:
    return getattr(node, "end_lineno", None) or node.lineno  # type: ignore[attr-defined]


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())
