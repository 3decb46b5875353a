"""Units: models bound to their fields, each ready to run on a table of rows.

Whatever runs a model, a unit takes named columns and gives named columns with as many rows. An ONNX model runs in its
caller's thread; a Python model runs in a sidekick, and its caller waits.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from midstream_api.engineconfig import ResolvedModel
from midstream_api.model import Batching, InputField, Missing
from midstream_engine.errors import BadInput, LoadError, RequestError, SidekickFailed, StepFailed
from midstream_engine.schema import Array, Field, list_fields, shape_text
from midstream_engine.sessions import Arrays, Session, Stop, by_row, explain, run_bounded


class Remote(Protocol):
    """A Python model in its process: what `midstream_engine.sidekicks` gives."""

    async def call(self, inputs: Arrays, rows: int, seconds: float) -> Arrays: ...

    def call_blocking(self, inputs: Arrays, rows: int, seconds: float) -> Arrays: ...

    def attempt_blocking(self, inputs: Arrays, rows: int, seconds: float) -> Arrays: ...


@dataclass(slots=True, eq=False)
class OnnxUnit:
    """An ONNX model of a loaded revision."""

    where: str
    """`step 'predict'`, or with the variant's name; how messages begin."""
    variant: str | None
    model: ResolvedModel
    session: Session
    inputs: tuple[Field, ...]
    """As callers, or the step before, name them."""
    outputs: tuple[Field, ...]
    feeds: tuple[tuple[str, str], ...]
    """(the session's own name, field name) for each input."""
    output_names: list[str]
    single: bool = False
    """The model knows no batches: it runs once for each row."""
    texts: bool = False
    """Some inputs are text. onnxruntime takes any object for text: what is none has to be found before."""
    row_ns: float = 0.0
    """What one row took at warm-up."""

    @property
    def batch(self) -> int | None:
        """Rows that the model insists on; None is any number."""
        return next((each.batch for each in self.inputs if each.batch is not None), None)

    def run(self, fields: Arrays, rows: int) -> Arrays:
        """Outputs by name, in the order of `outputs`. Raises StepFailed, and BadInput for rows of different shapes."""
        if self.single:
            return self._run_each(fields, rows, None)
        feed = {tensor: fields[name] for tensor, name in self.feeds}
        if self.texts:
            self._check_even(fields)
        try:
            found = self.session.run(self.output_names, feed)
        except Exception as error:
            self._check_even(fields)
            raise StepFailed(f"{self.where}: {explain(error)}") from error
        if len(found) == 1 and found[0].shape[:1] == (rows,):
            return {self.output_names[0]: found[0]}
        return self._checked(found, rows)

    def run_bounded(self, fields: Arrays, rows: int, seconds: float) -> Arrays:
        """The same, but stopped after `seconds`."""
        if self.single:
            return self._run_each(fields, rows, seconds)
        self._check_even(fields)
        feed = {tensor: fields[name] for tensor, name in self.feeds}
        return self._checked(self._bounded(feed, seconds), rows)

    def run_until(self, fields: Arrays, rows: int, stop: Stop) -> Arrays:
        """The same in the caller's thread, until somebody calls `stop`: then StepFailed is raised."""
        if self.single:
            return self._run_each(fields, rows, None, stop)
        self._check_even(fields)
        feed = {tensor: fields[name] for tensor, name in self.feeds}
        try:
            found = self.session.run(self.output_names, feed, stop.options)
        except Exception as error:
            raise StepFailed(f"{self.where}: {explain(error)}") from error
        return self._checked(found, rows)

    def _check_even(self, fields: Arrays) -> None:
        """Raise BadInput where rows have shapes of their own: that is known of the step before only when it answers."""
        for _, name in self.feeds:
            array = fields[name]
            if not is_uneven(array):
                continue
            shapes = [row.shape for row in array]
            row = next((n for n, shape in enumerate(shapes) if shape != shapes[0]), 0)
            raise BadInput(
                f"{self.where}: input {name!r} has the shape {list(shapes[row])} in row {row} and {list(shapes[0])} in "
                "row 0, and no tensor holds both; send one row in a request",
                reason="RaggedOutput",
                field=name,
                row=row,
            )

    def _bounded(self, feed: Arrays, seconds: float, of: float | None = None) -> list[Array]:
        """of: the seconds that all rows share, where they run one by one."""
        try:
            return run_bounded(self.session, self.output_names, feed, seconds)
        except StepFailed as error:
            if of is not None and error.reason == "StepTimedOut":
                raise StepFailed(
                    f"{self.where}: the model, which runs once for each row, did not answer all rows within {of:g} s",
                    reason=error.reason,
                ) from error
            raise StepFailed(f"{self.where}: {error.message}", reason=error.reason) from error

    def _checked(self, found: Sequence[Array], rows: int) -> Arrays:
        outputs: Arrays = {}
        for name, array in zip(self.output_names, found, strict=True):
            if not array.shape or array.shape[0] != rows:
                raise StepFailed(
                    f"{self.where}: output {name!r} has the shape {shape_text(array.shape)} "
                    f"for {rows} rows; a model must answer as many rows as it gets"
                )
            outputs[name] = array
        return outputs

    def _run_each(
        self, fields: Arrays, rows: int, seconds: float | None, stop: Stop | None = None
    ) -> Arrays:
        """One run for each row: what it gives is a row's value as a whole."""
        options = None if stop is None else stop.options
        columns: list[list[Array]] = [[] for _ in self.output_names]
        until = None if seconds is None else time.monotonic() + seconds
        for row in range(rows):
            feed = {tensor: _row_of(fields[name], row) for tensor, name in self.feeds}
            if until is not None:
                found = self._bounded(feed, max(0.0, until - time.monotonic()), seconds)
            else:
                try:
                    found = self.session.run(self.output_names, feed, options)
                except Exception as error:
                    raise StepFailed(f"{self.where}: {explain(error)}") from error
            for column, array in zip(columns, found, strict=True):
                column.append(np.asarray(array))
        return {
            name: stacked(column) for name, column in zip(self.output_names, columns, strict=True)
        }


@dataclass(slots=True, eq=False)
class SidekickUnit:
    """A Python model of a loaded revision."""

    where: str
    variant: str | None
    model: ResolvedModel
    sidekick: Remote
    inputs: tuple[Field, ...] | None
    """None: whatever comes."""
    outputs: tuple[Field, ...] | None
    """None: known only when it answers."""
    reserved: Callable[[str], bool] | None = None
    """Of the last step: whether an output cannot have a name."""

    async def call(self, fields: Arrays, rows: int, seconds: float) -> Arrays:
        """Outputs by name. Raises SidekickFailed, SidekickTimedOut and Overloaded."""
        try:
            found = await self.sidekick.call(self._taken(fields), rows, seconds)
        except RequestError as error:
            raise self._placed(error) from error
        return self._checked(found, rows)

    def run_bounded(self, fields: Arrays, rows: int, seconds: float) -> Arrays:
        """The same for the loading thread, which waits."""
        try:
            found = self.sidekick.call_blocking(self._taken(fields), rows, seconds)
        except RequestError as error:
            raise self._placed(error) from error
        return self._checked(found, rows)

    def _taken(self, fields: Arrays) -> Arrays:
        """What the code declares, in the order of the first row or of the step before, which the code sees."""
        if self.inputs is None:
            return fields
        names = {field.name for field in self.inputs}
        return {name: array for name, array in fields.items() if name in names}

    def _placed(self, error: RequestError) -> RequestError:
        return type(error)(f"{self.where}: {error.message}", reason=error.reason)

    def _checked(self, found: Arrays, rows: int) -> Arrays:
        for name, array in found.items():
            if not array.shape or array.shape[0] != rows:
                raise SidekickFailed(
                    f"{self.where}: output {name!r} has the shape {shape_text(array.shape)} "
                    f"for {rows} rows; a model must answer as many rows as it gets"
                )
        if self.outputs is None:
            taken = next(filter(self.reserved, found), None) if self.reserved else None
            if taken is not None:
                raise SidekickFailed(
                    f"{self.where}: the code gives {taken[:60]!r}, under which answers of this pipeline say something "
                    "else; give the output another name"
                )
            return found
        return conformed(found, self.outputs, f"{self.where}: the code gives", SidekickFailed)


Unit = OnnxUnit | SidekickUnit


def stacked(column: Sequence[Array]) -> Array:
    """Values of rows as one array; of objects, one for each row, when their shapes differ."""
    if len({array.shape for array in column}) == 1:
        return np.stack(column)
    ragged = np.empty(len(column), dtype=object)
    ragged[:] = list(column)
    return ragged


def is_uneven(array: Array) -> bool:
    """Whether a column is as `stacked` makes it of rows that have different shapes."""
    return (
        array.dtype == object
        and array.ndim == 1
        and bool(len(array))
        and isinstance(array[0], np.ndarray)
    )


def rows_of(array: Array, where: Array) -> Array:
    """Some rows of a column: as one array where these have the same shape, though others have not."""
    part = array[where]
    return stacked(list(part)) if is_uneven(part) else part


def _row_of(array: Array, row: int) -> Array:
    """One row as an array, also where it is a single value, or rows have shapes of their own."""
    value = array[row, ...]
    if value.dtype == object and value.ndim == 0 and isinstance(value.item(), np.ndarray):
        return value.item()  # type: ignore[no-any-return]
    return value


def conformed(
    found: Arrays, wanted: Sequence[Field], who: str, error: type[RequestError]
) -> Arrays:
    """Columns as the fields that they are to be, in their order; what code gives is float64 or int64 mostly.

    Numbers become floats of any width where they are in range, and integers where they are whole, too. Raises `error`,
    whose message begins with `who`, for a name that is missing, a shape that does not fit and a type that cannot become
    the field's.
    """
    outputs: Arrays = {}
    for field in wanted:
        array = found.get(field.name)
        if array is None:
            raise error(f"{who} {', '.join(map(repr, found)) or 'nothing'}, wanted is {field}")
        if is_uneven(array):
            rows = [conformed({field.name: row[np.newaxis]}, (field,), who, error) for row in array]
            outputs[field.name] = stacked([row[field.name][0, ...] for row in rows])
            continue
        shape = array.shape[1:]
        if not field.accepts(shape):
            if shape == () and field.accepts((1,)):
                array = array.reshape(-1, 1)
            elif shape == (1,) and field.shape == ():
                array = array.reshape(-1)
            else:
                raise error(
                    f"{who} {field.name!r} with rows of the shape {list(shape)}, wanted is {field}"
                )
        if array.dtype != field.numpy_dtype:
            cast = _cast(array, field)
            if cast is None:
                numbers = array.dtype.kind in _NUMBERS and field.dtype not in ("bool", "string")
                values = " with values that it cannot hold" if numbers else ""
                raise error(f"{who} {field.name!r} as {_kind(array)}{values}, wanted is {field}")
            array = cast
        outputs[field.name] = array
    return outputs


_NUMBERS = frozenset("fiub")


def _cast(array: Array, field: Field) -> Array | None:
    """None when a value would not be the same, but for the digits that a float has no room for."""
    kind = field.numpy_dtype.kind
    if kind == "O":
        return None if array.dtype.kind != "U" else array.astype(object)
    if array.dtype.kind not in _NUMBERS:
        return None
    if kind == "f":
        with np.errstate(over="ignore"):
            cast = array.astype(field.numpy_dtype)
        return None if (np.isinf(cast) & np.isfinite(array)).any() else cast
    if kind == "b":
        return None
    limits = np.iinfo(field.dtype)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.trunc(array))).all():
        return None
    # As Python's integers: as floats 2**63 and 2**63 - 1 are the same.
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        return None
    return array.astype(field.numpy_dtype)


def _kind(array: Array) -> str:
    return "string" if array.dtype.kind in "OU" else array.dtype.name


def bind_onnx(where: str, variant: str | None, model: ResolvedModel, session: Session) -> OnnxUnit:
    """A unit with its model's inputs renamed as the manifest says. Raises LoadError."""
    for what, tensors in (("inputs", session.inputs), ("outputs", session.outputs)):
        if not tensors:
            raise LoadError(
                "InvalidModel",
                f"{where}, model {model.name!r}: the model has no {what}; a step needs at least one",
            )
    single = model.batch is Batching.SINGLE
    try:
        taken = session.inputs if single else by_row(session.inputs, "input")
        given = session.outputs if single else by_row(session.outputs, "output")
    except LoadError as error:
        raise LoadError(error.reason, f"{where}, model {model.name!r}: {error.message}") from error
    if single:
        given = tuple(replace(field, ranked=bool(field.shape)) for field in given)
    feeds: list[tuple[str, str]] = []
    inputs: list[Field] = []
    for field, entry in _renamed(where, model, taken):
        feeds.append((field.name, entry.name if entry else field.name))
        allow = entry is not None and entry.missing is Missing.ALLOW
        if allow and not field.dtype.startswith("float"):
            raise LoadError(
                "InvalidInputs",
                f"{where}: input {entry.name if entry else ''!r} has `missing: Allow`, which needs a float; "
                f"the model takes {field.dtype}",
            )
        inputs.append(replace(field, name=feeds[-1][1], allow_missing=allow))
    return OnnxUnit(
        where=where,
        variant=variant,
        model=model,
        session=session,
        inputs=tuple(inputs),
        outputs=given,
        feeds=tuple(feeds),
        output_names=[field.name for field in given],
        single=single,
        texts=any(field.dtype == "string" for field in inputs),
    )


def bind_sidekick(
    where: str, variant: str | None, model: ResolvedModel, sidekick: Remote
) -> SidekickUnit:
    """A unit of a Python model: its fields are what the manifest declares. Raises LoadError."""
    declared: list[Field] = []
    for entry in model.inputs or []:
        if entry.dtype is None:
            raise LoadError(
                "InvalidInputs",
                f"{where}: input {entry.name!r} has no dtype; declare dtype and shape of each input of a Python "
                "model, or leave inputs out",
            )
        field = Field(entry.name, entry.dtype.value, _shape(entry.shape or []))
        if entry.missing is Missing.ALLOW and not field.dtype.startswith("float"):
            raise LoadError(
                "InvalidInputs",
                f"{where}: input {entry.name!r} has `missing: Allow`, which needs a float; it is {field.dtype}",
            )
        declared.append(replace(field, allow_missing=entry.missing is Missing.ALLOW))
    outputs = [
        Field(each.name, each.dtype.value, _shape(each.shape)) for each in model.outputs or []
    ]
    return SidekickUnit(
        where=where,
        variant=variant,
        model=model,
        sidekick=sidekick,
        inputs=tuple(declared) if declared else None,
        outputs=tuple(outputs) if outputs else None,
    )


def _shape(lengths: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(None if length < 0 else length for length in lengths)


def _renamed(
    where: str, model: ResolvedModel, own: Sequence[Field]
) -> list[tuple[Field, InputField | None]]:
    given = model.inputs
    if given is None:
        return [(field, None) for field in own]
    where = f"{where}, model {model.name!r}"
    if len(given) != len(own):
        raise LoadError(
            "InvalidInputs",
            f"{where}: inputs lists {len(given)} names, the model has {len(own)}: {list_fields(own)}",
        )
    by_name = {field.name: field for field in own}
    pairs: dict[str, InputField] = {}
    for position, entry in enumerate(given):
        tensor = entry.tensor if entry.tensor is not None else own[position].name
        if tensor not in by_name:
            raise LoadError(
                "InvalidInputs",
                f"{where}: inputs[{position}].tensor names {tensor!r}, the model has {list_fields(own)}",
            )
        if tensor in pairs:
            raise LoadError(
                "InvalidInputs", f"{where}: inputs has two entries for the model's {tensor!r}"
            )
        pairs[tensor] = entry
    return [(field, pairs[field.name]) for field in own]


def release_later(unit: Unit) -> Any:
    """What a unit holds, taken out of it, so that it goes where the caller wants it to."""
    if isinstance(unit, OnnxUnit):
        held: Any = unit.session
        del unit.session
    else:
        held = unit.sidekick
        del unit.sidekick
    return held
