"""Random pipelines of all kinds of steps, and random rows for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from reference import zoo
from reference.pipelines import Check, Pipeline, Place, Step
from reference.values import Column
from reference.zoo import Model, Output, code_model, onnx_model

DTYPES = (*zoo.FLOATS, *zoo.INTEGERS, "bool", "string")
SHAPES: tuple[tuple[int | None, ...], ...] = ((), (1,), (3,), (2, 2), (None,), (0,))

CODES = (zoo.times(2), zoo.times(3), zoo.TOTALS, zoo.FAILS)
"""All the code there is, so that its processes can be kept."""

_MAX_STEPS = 4


class Drawn:
    """One pipeline. What chance decides is drawn from hypothesis, so that a failure shrinks."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], folder: Path) -> None:
        self._draw = draw
        self._folder = folder
        self._models = 0
        self._challengers = 0
        self._ragged = False
        """From here on rows may differ in shape."""

    def pipeline(self) -> Pipeline:
        steps: list[Step] = []
        columns = self.columns(missing=True)
        for number in range(self._draw(st.integers(1, _MAX_STEPS))):
            step = self._step(f"s{number}", columns)
            steps.append(step)
            found = self._comes(step, columns)
            if found is None:
                break
            columns = found
        steps = [_with_options_that_match(step, steps[0].takes) for step in steps]
        return Pipeline(tuple(steps), self._checks(steps))

    def _comes(self, step: Step, columns: tuple[Column, ...]) -> tuple[Column, ...] | None:
        """What a step gives, also where nobody says so; None when requests decide."""
        model = step.places[0].model
        if model.gives is not None:
            return model.gives
        if model.entry["source"]["inline"] == zoo.TOTALS:
            return zoo.TOTALS_GIVES
        return None if step.takes is None and step.name == "s0" else _plain(columns)

    # Fields

    def columns(self, *, missing: bool) -> tuple[Column, ...]:
        names = self._draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
        found = []
        for name in names:
            dtype = self._draw(st.sampled_from(("float32", *DTYPES)))
            shape = self._draw(st.sampled_from(SHAPES))
            holes = missing and dtype.startswith("float") and self._draw(st.booleans())
            found.append(Column(name, dtype, shape, holes))
        return tuple(found)

    def _some(self, columns: Sequence[Column]) -> list[Column]:
        chosen = self._draw(
            st.lists(st.sampled_from(range(len(columns))), min_size=1, max_size=3, unique=True)
        )
        return [columns[place] for place in sorted(chosen)]

    # Steps

    def _step(self, name: str, columns: tuple[Column, ...]) -> Step:
        kind = self._draw(st.sampled_from(("model", "split", "shadow")))
        # Rows that differ in shape fit into no tensor: what takes all at once refuses them.
        single = self._draw(st.integers(0, 4)) < (4 if self._ragged else 1)
        if kind == "model":
            return Step(name, kind, (Place(self._model(columns, single=single)),))
        if kind == "shadow":
            return self._shadow(name, columns, single=single)
        return self._split(name, columns, single=single)

    def _shadow(self, name: str, columns: tuple[Column, ...], *, single: bool) -> Step:
        champion = self._model(columns, single=single)
        wait = self._draw(st.booleans())
        places = [Place(champion, "champion")]
        for _ in range(self._draw(st.integers(1, 2))):
            self._challengers += 1
            fails = self._draw(st.integers(0, 5)) == 0
            # All models of a step get the same rows: what the champion takes says of which types.
            model = (
                self._code(champion.takes, declared=False, code=zoo.FAILS)
                if fails
                else self._onnx(champion.takes or columns, single=single)
                if champion.takes is not None
                else self._code(None, declared=False)
            )
            places.append(Place(model, f"c{self._challengers}"))
        return Step(name, "shadow", tuple(places), wait=wait)

    def _split(self, name: str, columns: tuple[Column, ...], *, single: bool) -> Step:
        count = self._draw(st.integers(1, 3))
        models = self._variants(columns, count, single=single)
        names = [f"v{number}" for number in range(count)]
        weights = self._draw(
            st.lists(st.integers(0, 3), min_size=count, max_size=count).filter(any)
        )
        places = tuple(map(Place, models, names, weights))
        chosen = self._draw(st.sampled_from(("random", "hash", "key")))
        if chosen == "random":
            return Step(name, "split", places)
        field = self._draw(st.sampled_from(("who", "where", "f0")))
        if chosen == "hash":
            return Step(name, "split", places, hash_key=field)
        values = self._draw(
            st.lists(st.sampled_from(KEY_TEXTS), max_size=4, min_size=1, unique=True)
        )
        options = {value: self._draw(st.sampled_from(names)) for value in values}
        default = self._draw(st.sampled_from(names))
        return Step(name, "split", places, key=field, options=options, default=default)

    # Models

    def _name(self) -> str:
        self._models += 1
        return f"m{self._models}"

    def _model(self, columns: tuple[Column, ...], *, single: bool) -> Model:
        kind = self._draw(st.sampled_from(("onnx", "onnx", "onnx", "code", "code", "open")))
        if kind == "onnx" or (single and not self._ragged):
            return self._onnx(columns, single=single)
        if kind == "open" or self._ragged:
            return self._code(None, declared=False)
        return self._code(columns, declared=True)

    def _code(
        self, columns: Sequence[Column] | None, *, declared: bool, code: str | None = None
    ) -> Model:
        """declared: the manifest says what it takes and gives."""
        known = CODES[2:3] if self._ragged else CODES[:3]
        chosen = code or self._draw(st.sampled_from(known))
        if not declared or columns is None:
            return code_model(chosen, name=self._name())
        takes = self._some(columns)
        gives = zoo.TOTALS_GIVES if chosen == zoo.TOTALS else _plain(takes)
        return code_model(chosen, name=self._name(), takes=takes, gives=gives)

    def _onnx(self, columns: Sequence[Column], *, single: bool) -> Model:
        outputs = [
            self._output(OUTPUTS[number], self._some(columns), single=single)
            for number in range(self._draw(st.integers(1, 3)))
        ]
        return self._made(columns, outputs, single=single)

    def _made(self, columns: Sequence[Column], outputs: Sequence[Output], *, single: bool) -> Model:
        rename = self._draw(st.sampled_from(("position", "tensor", "none")))
        return onnx_model(
            self._folder, columns, outputs, name=self._name(), single=single, rename=rename
        )

    def _output(self, name: str, columns: list[Column], *, single: bool) -> Output:
        column = columns[0]
        number = column.dtype not in ("bool", "string")
        same = tuple(c.name for c in columns if (c.dtype, len(c.shape)) == (column.dtype, 1))
        choices = ["same"]
        if number:
            choices += ["times", "plus", "over"]
            if len(column.shape) == 1 and single:
                choices.append("above")
        if column.dtype in zoo.SUMS:
            choices.append("sum")
        if column.dtype in _WIDER:
            choices.append("as")
        if len(column.shape) == 1:
            choices.append("join")
        operation = self._draw(st.sampled_from(choices))
        constant = self._draw(st.sampled_from((1, 2, 3)))
        self._ragged |= operation == "above"
        if operation == "as":
            dtype = self._draw(st.sampled_from(_WIDER[column.dtype]))
            return Output(name, operation, (column.name,), dtype=dtype)
        if operation == "join":
            return Output(name, operation, same)
        if operation == "sum":
            added = tuple(c.name for c in columns if c.dtype == column.dtype)
            return Output(name, operation, added, constant)
        return Output(name, operation, (column.name,), constant)

    def _variants(self, columns: Sequence[Column], count: int, *, single: bool) -> list[Model]:
        """Models of equal outputs."""
        if not (single or self._ragged) and self._draw(st.integers(0, 3)) == 0:
            codes = [self._draw(st.sampled_from(CODES[:2])) for _ in range(count)]
            takes = self._some(columns)
            gives = _plain(takes)
            return [code_model(code, name=self._name(), takes=takes, gives=gives) for code in codes]
        outputs = [
            self._output(OUTPUTS[number], self._some(columns), single=single)
            for number in range(self._draw(st.integers(1, 2)))
        ]
        models = []
        for _ in range(count):
            other = [
                output._replace(constant=self._draw(st.sampled_from((1, 2, 3, 4))))
                for output in outputs
            ]
            models.append(self._made(columns, other, single=single))
        return models

    # Checks

    def _checks(self, steps: Sequence[Step]) -> tuple[Check, ...]:
        checks = []
        for number in range(self._draw(st.integers(0, 2))):
            found = [self._condition(steps) for _ in range(self._draw(st.integers(1, 2)))]
            parts = [part for part in found if part is not None]
            if not parts:
                continue
            text = self._draw(st.sampled_from((" and ", " or "))).join(parts)
            fails_when = self._draw(st.booleans())
            checks.append(Check(f"check {number}", text, fails_when))
        return tuple(checks)

    def _condition(self, steps: Sequence[Step]) -> str | None:
        """One that reads what is declared; None where it happens upon something else."""
        place = self._draw(st.integers(0, len(steps) - 1))
        step = steps[place]
        root = self._draw(st.sampled_from(("in", "out", "steps", "model")))
        if root == "in":
            columns = steps[0].takes
        elif root == "out":
            columns = steps[-1].gives
        else:
            columns = step.gives
        if columns is None:
            return None
        at = self._draw(st.integers(0, len(columns) - 1))
        column = columns[at]
        match root:
            case "model":
                text = f"{step.places[0].model.name}.outputs[{at}]"
            case "steps":
                text = f"steps.{step.name}.out[{at}]"
            case _:
                text = f'{root}["{column.name}"]'
        depth = 0 if 0 in column.shape else self._draw(st.integers(0, len(column.shape)))
        for length in column.shape[:depth]:
            text += f"[{self._draw(st.integers(0, max((length or 3) - 1, 0)))}]"
        test = {"string": f'{text} == "a"', "bool": f"{text} == true"}.get(
            column.dtype,
            f"{text} {self._draw(st.sampled_from(('<', '>=', '!=')))} "
            f"{self._draw(st.sampled_from((0, 1, 2.5)))}",
        )
        if depth < len(column.shape):
            return f"{self._draw(st.sampled_from(('any', 'all')))}({test})"
        return test


def _plain(columns: Sequence[Column]) -> tuple[Column, ...]:
    return tuple(column._replace(missing=False) for column in columns)


def _with_options_that_match(step: Step, takes: Sequence[Column] | None) -> Step:
    """An engine refuses others where it knows the field's type; without any the split has another key."""
    column = next((each for each in takes or () if each.name == step.key), None)
    if column is None or (column.dtype == "string" and not column.shape):
        return step
    known = {"bool": ("true",), **dict.fromkeys(zoo.FLOATS, ("1", "2.5", "0.1"))}
    texts = known.get(column.dtype, ("1",)) if not column.shape else ()
    options = {text: name for text, name in step.options.items() if text in texts}
    return replace(step, options=options) if options else replace(step, key="who")


NAMES = ("f0", "f1", "a.b/c:d", "in", "f-2")
OUTPUTS = ("o0", "out", "p.q:1")

_WIDER = {
    "float16": ("float32", "float64"),
    "float32": ("float64",),
    "int8": ("int32", "float32"),
    "uint8": ("int64", "float64"),
    "int32": ("int64", "float64"),
    "bool": ("float32", "int64"),
}
"""Casts that mean the same everywhere."""

KEY_TEXTS = ("a", "b", "1", "2.5", "true", "0.1", "", "é")


@st.composite
def pipelines(draw: st.DrawFn, folder: Path) -> Pipeline:
    """Any pipeline. folder: where its files are."""
    return Drawn(draw, folder).pipeline()


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Column, ...]:
    """Fields of any types and shapes."""
    return Drawn(draw, Path()).columns(missing=True)


@dataclass(frozen=True)
class Asked:
    """Rows for a pipeline."""

    rows: list[dict[str, Any]]
    """Values of JSON by field, of those that models take."""
    columns: tuple[Column, ...]
    """Their types; where nobody has declared them, those that a client may say."""
    keys: dict[str, list[Any]]
    """Values of the fields that only splits look at, None where a row has none."""
    key_types: dict[str, str]


@st.composite
def requests(draw: st.DrawFn, pipeline: Pipeline) -> Asked:
    """Rows that fit."""
    columns = pipeline.steps[0].takes
    if columns is None:
        columns = tuple(column for column in draw(inputs()) if column.name not in pipeline.routing)
    if not columns:
        columns = (Column("other", "float32"),)
    count = draw(st.integers(1, 5))
    chosen = [_lengths(draw, column) for column in columns]
    rows = [
        {
            column.name: _value(draw, column, shape)
            for column, shape in zip(columns, chosen, strict=True)
        }
        for _ in range(count)
    ]
    keys, types = {}, {}
    for name in pipeline.routing:
        types[name] = dtype = draw(st.sampled_from(sorted(KEYS)))
        # As a column that code gets, too, booleans have no holes.
        holes = [] if dtype == "bool" and pipeline.steps[0].takes is None else [None]
        keys[name] = [draw(st.sampled_from([*holes, *KEYS[dtype]])) for _ in range(count)]
    return Asked(rows, columns, keys, types)


KEYS: dict[str, list[Any]] = {
    "string": ["a", "b", "1", "2.5", "true", "", "é", "Zoë", "user-1"],
    "int64": [0, 1, 42, -3, 2**60],
    "float64": [1.0, 2.5, 0.1, 1e-7, -3.0, 1e22],
    "float32": [1.0, 2.5, float(np.float32(0.1)), -3.0],
    "bool": [True, False],
}
"""Values of keys by type."""


def _lengths(draw: st.DrawFn, column: Column) -> tuple[int, ...]:
    return tuple(draw(st.integers(0, 3)) if n is None else n for n in column.shape)


def _value(draw: st.DrawFn, column: Column, shape: tuple[int, ...]) -> Any:
    if not shape:
        if column.missing and draw(st.integers(0, 4)) == 0:
            return None
        return draw(st.sampled_from(VALUES[column.dtype]))
    return [_value(draw, column, shape[1:]) for _ in range(shape[0])]


def _whole(dtype: str) -> list[int]:
    limits = np.iinfo(dtype)
    return [0, 1, 2, 3, 7, int(limits.max), int(limits.min)]


VALUES: dict[str, list[Any]] = {
    **{dtype: _whole(dtype) for dtype in zoo.INTEGERS},
    "float16": [0.0, -0.0, 1.0, 0.5, -2.25, 60000.0, float(np.float16(0.1))],
    "float32": [0.0, -0.0, 1.0, 0.5, -2.25, 0.1, 7.7, 3e38, 1e-45],
    "float64": [0.0, -0.0, 1.0, 0.1, -2.25, 1e308, 5e-324, 1 / 3],
    "bool": [True, False],
    "string": ["", "a", "b", "é", "{}", 'q"uote', "\\", "\n", "🎉", "[1]"],
}
VALUES["float32"] = [float(np.float32(value)) for value in VALUES["float32"]]
