"""Validations as the engine runs them and a plain reference agree on every expression and every row."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kit.expressions import failed_rows
from midstream_api.syntax import (
    Binary,
    Boolean,
    Call,
    Expression,
    Logic,
    Node,
    Number,
    Reference,
    Root,
    Text,
    Unary,
    printed,
)
from midstream_api.validation import Validation
from midstream_engine.errors import LoadError
from midstream_engine.expressions.scope import Scope, StepScope
from midstream_engine.schema import Array, Field
from midstream_engine.validations import compile_validations
from reference import expressions

INPUTS = (
    Field("half", "float16", ()),
    Field("single", "float32", (3,)),
    Field("double", "float64", (3,)),
    Field("long", "int64", (3,)),
    Field("unsigned", "uint64", ()),
    Field("byte", "int8", ()),
    Field("flag", "bool", ()),
    Field("flags", "bool", (3,)),
    Field("text", "string", ()),
    Field("texts", "string", (3,)),
    Field("loose", "float32", (None,)),
    Field("other", "int64", (None,)),
    Field("none", "float32", (0,)),
    Field("grid", "float32", (2, 3)),
)
ANSWER = (Field("y", "float32", ()), Field("ys", "float32", (3,)))
SCOPE = Scope(
    INPUTS,
    (
        StepScope("code", None, ((None, "my-code"),)),
        StepScope("detect", (Field("found", "float32", (None,)),), ((None, "cnn"),)),
        StepScope("predict", ANSWER, (("a", "rf-1"), ("b", "xgb"))),
    ),
)

BIG = 2**53 + 1
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.1, 0.5, 2.0, 3.0, np.nan, np.inf, -np.inf, 1e-45, 6e4, 1e5]
TEXTS = ["", "a", "ab", "b\0", "é", "a"]
VALUES: dict[str, list[Any]] = {
    "float16": FLOATS[:-1],
    "float32": [*FLOATS, 3e38],
    "float64": [*FLOATS, 1e308, float(BIG - 1), 1e-320],
    "int8": [0, 1, -1, 127, -128, 3],
    "int64": [0, 1, -1, BIG, BIG - 1, 2**63 - 1, -(2**63), 3],
    "uint64": [0, 1, BIG, 2**64 - 1, 2**63, 3],
    "bool": [True, False],
    "string": [*TEXTS, None],
}


class Drawn:
    """Expressions of a wanted type, most of which fit; what must not be mixed is chosen once."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self._variant = draw(st.sampled_from(["rf-1", "b", "predict"]))

    def _one(self, *choices: Callable[[], Node]) -> Node:
        node: Node = self._draw(st.sampled_from(choices))()
        return node

    def _field(self, name: str, *indexes: int, root: Root = "in", of: str = "") -> Node:
        return Reference(root, of, name, indexes)

    def _taken(self, name: str, *, lengths: int = 3) -> Node:
        return self._field(name, self._draw(st.integers(0, lengths - 1)))

    def condition(self, depth: int, *, many: bool = False) -> Node:
        below = depth - 1
        leaf = [lambda: self._field("flag"), lambda: self._taken("flags")]
        if many:
            leaf = [*leaf, *[lambda: self._field("flags")] * 3]
        if depth <= 0:
            return self._one(*leaf)
        return self._one(
            *leaf[-1:],
            *[lambda: self._comparison(below, many=many)] * 3,
            *[lambda: self._logic(below, many=many)] * 2,
            lambda: Unary("not", self.condition(below, many=many)),
            lambda: Call(
                self._draw(st.sampled_from(["any", "all"])), (self.condition(below, many=True),)
            ),
            lambda: Call(
                self._draw(st.sampled_from(["isnan", "isfinite"])), (self.number(below, many=many),)
            ),
            lambda: Call("contains", (self.text(many=many), self.text(many=many))),
        )

    def _comparison(self, depth: int, *, many: bool) -> Node:
        equal = self._draw(st.sampled_from(["==", "!="]))
        ordered = self._draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
        return self._one(
            *[lambda: Binary(ordered, self.number(depth, many=many), self.number(depth, many=many))]
            * 4,
            lambda: Binary(equal, self.text(many=many), self.text(many=many)),
            lambda: Binary(
                equal, self.condition(depth - 1, many=many), self.condition(depth - 1, many=many)
            ),
        )

    def _logic(self, depth: int, *, many: bool) -> Node:
        count = self._draw(st.integers(2, 3))
        operands = tuple(self.condition(depth, many=many) for _ in range(count))
        return Logic(self._draw(st.sampled_from(["and", "or"])), operands)

    def number(self, depth: int, *, many: bool = False) -> Node:
        leaf = [
            lambda: Number(
                self._draw(st.sampled_from([0, 1, -1, 2, 0.1, 0.5, BIG, -BIG, 2**64 - 1]))
            ),
            lambda: self._field(self._draw(st.sampled_from(["half", "unsigned", "byte"]))),
            lambda: self._taken(self._draw(st.sampled_from(["single", "double", "long"]))),
            lambda: self._taken(self._draw(st.sampled_from(["loose", "other"])), lengths=4),
            lambda: self._field("grid", 1, 2),
            lambda: Reference("model", self._variant, 0, self._draw(st.sampled_from([(), (0,)]))),
            lambda: Reference("out", "", "ys", (1,)),
            lambda: Reference("steps", "code", "x", ()),
            lambda: Reference("steps", "detect", 0, (self._draw(st.integers(0, 2)),)),
        ]
        lists = [
            lambda: self._field(self._draw(st.sampled_from(["single", "double", "long"]))),
            lambda: self._field(self._draw(st.sampled_from(["loose", "other"]))),
            lambda: self._field("grid", 0),
            lambda: Reference("steps", "predict", "ys"),
            lambda: Reference("model", "my-code", 1),
            lambda: Reference("model", "cnn", 0),
        ]
        if many:
            leaf = [*lists, *leaf[:3]]
        if depth <= 0:
            return self._one(*leaf)
        below = depth - 1
        return self._one(
            *leaf[:4],
            lambda: Binary(
                self._draw(st.sampled_from(["+", "-", "*", "/", "%"])),
                self.number(below, many=many),
                self.number(below, many=many),
            ),
            lambda: self._negative(self.number(below, many=many)),
            lambda: Call("abs", (self.number(below, many=many),)),
            lambda: Call(
                self._draw(st.sampled_from(["min", "max"])),
                tuple(self.number(below, many=many) for _ in range(self._draw(st.integers(2, 3)))),
            ),
            lambda: self._reduced(below),
        )

    def _negative(self, node: Node) -> Node:
        return node if isinstance(node, Number) else Unary("-", node)

    def _reduced(self, depth: int) -> Node:
        function = self._draw(st.sampled_from(["sum", "mean", "min", "max"]))
        return self._one(
            lambda: Call(function, (self.number(depth, many=True),)),
            lambda: Call(function, (self._field(self._draw(st.sampled_from(["none", "grid"]))),)),
            lambda: Call("sum", (self.condition(depth, many=True),)),
            lambda: Call(
                "len",
                (self._field(self._draw(st.sampled_from(["loose", "grid", "texts", "text"]))),),
            ),
        )

    def text(self, *, many: bool = False) -> Node:
        choices = [
            lambda: Text(self._draw(st.sampled_from(TEXTS))),
            lambda: self._field("text"),
            lambda: self._taken("texts"),
            lambda: Reference("steps", "code", "word", ()),
        ]
        return self._one(*choices, *([lambda: self._field("texts")] * 3 if many else []))


conditions = st.composite(lambda draw: Drawn(draw).condition(3))()


class World:
    """Rows of nasty values for every field."""

    def __init__(self, seed: int, rows: int) -> None:
        chosen = random.Random(seed)  # noqa: S311 - of a test
        lengths = {"loose": chosen.choice([0, 2, 3, 3]), "other": chosen.choice([1, 3, 3])}

        def filled(dtype: str, shape: tuple[int, ...]) -> Array:
            array = np.empty(shape, object if dtype == "string" else dtype)
            for place in np.ndindex(*shape):
                array[place] = chosen.choice(VALUES[dtype])
            return array

        def table(fields: tuple[Field, ...]) -> dict[str, Array]:
            return {
                field.name: filled(
                    field.dtype, (rows, *(lengths.get(field.name, dim or 0) for dim in field.shape))
                )
                for field in fields
            }

        found = np.empty(rows, object)
        for row in range(rows):
            found[row] = filled("float32", (chosen.choice([0, 1, 3]),))
        self.rows = rows
        self.inputs = table(INPUTS)
        self.steps = {
            "code": {
                "x": filled(chosen.choice(["float64", "int64", "uint64"]), (rows,)),
                "many": filled(
                    chosen.choice(["float32", "int8"]), (rows, chosen.choice([2, 3, 3]))
                ),
                "word": filled("string", (rows,)),
            },
            "detect": {"found": found},
            "predict": table(ANSWER),
        }
        self.picked = {"predict": np.array([chosen.choice([0, 1]) for _ in range(rows)], np.intp)}

    def only(self, row: int) -> "World":
        """The same with one row."""
        alone = object.__new__(World)
        alone.rows = 1
        alone.inputs = _cut(self.inputs, row)
        alone.steps = {name: _cut(table, row) for name, table in self.steps.items()}
        alone.picked = {name: array[row : row + 1] for name, array in self.picked.items()}
        return alone

    def column(self, reference: Reference) -> Array:
        of_models = {"my-code": "code", "cnn": "detect"}
        match reference.root:
            case "in":
                table = self.inputs
            case "out":
                table = self.steps["predict"]
            case "steps":
                table = self.steps[reference.name]
            case "model":
                table = self.steps[of_models.get(reference.name, "predict")]
        name = reference.field
        return table[name] if isinstance(name, str) else list(table.values())[name]

    def row(self, number: int) -> expressions.Row:
        def value(reference: Reference) -> Any:
            cell = self.column(reference)[number]
            return cell.tolist() if isinstance(cell, np.ndarray | np.generic) else cell

        def dimensions(reference: Reference) -> int:
            cell = self.column(reference)[number]
            return cell.ndim if isinstance(cell, np.ndarray) else 0

        return expressions.Row(value, dimensions)

    def judges(self, expression: Expression, row: int) -> bool:
        """Whether the row was answered by the variant that the expression names."""
        variants = {"rf-1": 0, "b": 1}
        wanted = {
            variants.get(each.name) for each in expression.references() if each.root == "model"
        }
        return wanted <= {None, int(self.picked["predict"][row])}


def _cut(table: dict[str, Array], row: int) -> dict[str, Array]:
    return {name: array[row : row + 1] for name, array in table.items()}


@settings(max_examples=250, deadline=None)
@given(conditions, st.integers(0, 2**32), st.integers(1, 4), st.booleans())
def test_engine_and_reference_agree(root: Node, seed: int, rows: int, fails_when: bool) -> None:
    """On every row, alone and in a batch, for expressions that must hold and for those that must not."""
    expression = Expression(root)
    text = printed(root)
    assume(expression.references() and len(text) <= 1024)
    given = Validation.model_validate(
        {"name": "v", ("failWhen" if fails_when else "expression"): text}
    )
    compiled = compile_validations([given], SCOPE)
    assert compiled is not None
    world = World(seed, rows)
    wanted = [
        world.judges(expression, row)
        and expressions.failed(root, world.row(row), fails_when=fails_when)
        for row in range(rows)
    ]

    def failed(world: World) -> list[bool]:
        flags = failed_rows(
            compiled, world.inputs, world.steps, world.steps["predict"], world.rows, world.picked
        )
        return [bool(flag) for flag in flags[0]]

    assert failed(world) == wanted, text
    assert [failed(world.only(row))[0] for row in range(rows)] == wanted, text


anything = st.recursive(
    st.one_of(
        st.builds(
            Reference,
            st.just("in"),
            st.just(""),
            st.sampled_from([field.name for field in INPUTS]),
            st.lists(st.integers(0, 2), max_size=2).map(tuple),
        ),
        st.builds(
            Reference, st.just("steps"), st.just("code"), st.sampled_from(["x", "many", 2, "no"])
        ),
        st.builds(Reference, st.just("model"), st.sampled_from(["cnn", "rf-1"]), st.just(0)),
        st.sampled_from([Number(1), Number(0.5), Text("a"), Boolean(True)]),
    ),
    lambda below: st.one_of(
        st.builds(Unary, st.just("not"), below),
        st.builds(Binary, st.sampled_from(["+", "/", "<", "==", "!="]), below, below),
        st.builds(Logic, st.sampled_from(["and", "or"]), st.tuples(below, below)),
        st.builds(
            Call, st.sampled_from(["any", "all", "len", "sum", "isnan", "min"]), st.tuples(below)
        ),
        st.builds(Call, st.sampled_from(["contains", "max"]), st.tuples(below, below)),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(anything, st.integers(0, 2**32))
def test_what_does_not_fit_is_refused_at_load_or_fails_its_rows(root: Node, seed: int) -> None:
    """Whatever is combined: no other error at load, none at all from a request."""
    try:
        given = Validation(name="v", expression=printed(root))
    except ValueError:
        assume(False)
    try:
        compiled = compile_validations([given], SCOPE)
    except LoadError as error:
        reason = error.reason
    else:
        assert compiled is not None
        world = World(seed, 2)
        for each in (world, world.only(0)):
            failed_rows(
                compiled, each.inputs, each.steps, each.steps["predict"], each.rows, each.picked
            )
        reason = "InvalidValidation"
    assert reason == "InvalidValidation"
