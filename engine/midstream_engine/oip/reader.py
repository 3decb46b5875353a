"""Requests of the protocol to batches: JSON, with the tensors in it or as binary data behind it.

Strict as the readers of rows are: exactly the pipeline's inputs, of exactly their datatypes and shapes. A tensor that
a split asks for as its key and no model takes may come along, one value for each row.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput
from midstream_engine.formats.columns import MAX_ROWS
from midstream_engine.formats.jsontext import parse_body
from midstream_engine.formats.open_rows import MAX_FIELDS
from midstream_engine.formats.values import SHOWN, kind_said
from midstream_engine.oip.asked import Asked, AskedOutput
from midstream_engine.oip.datatypes import DATATYPES
from midstream_engine.oip.tensors import Tail, Tensor, tensor
from midstream_engine.schema import Array, Field

_LISTED = 40
"""Names of outputs in a message."""


class OipReader:
    """Turns request bodies into batches. Made once for each revision."""

    def __init__(
        self,
        fields: Sequence[Field] | None,
        keys: Collection[str] = (),
        knows: Callable[[str], bool] | None = None,
        outputs: Iterable[str] = (),
        *,
        as_sent: bool = False,
    ) -> None:
        """Read for these inputs; None takes any.

        keys: fields that a split asks for and no model takes. knows: whether there is an output of a name; None when
        only running the models tells. outputs: their names, for messages. as_sent: give the fields in the order of
        the tensors, otherwise as in `fields`.
        """
        self.fields = None if fields is None else tuple(fields)
        self._by_name = {field.name: field for field in fields or ()}
        self._keys = frozenset(keys)
        self._knows = knows
        self._outputs = tuple(outputs)
        self._as_sent = as_sent

    def read(self, body: bytes, json_length: int | None = None) -> tuple[Batch, Asked]:
        """The rows, and what the answer has to say.

        json_length: bytes of JSON at the beginning, from the header; None when all is JSON. Raises BadInput. Arrays of
        binary tensors may be read-only and keep the body alive.
        """
        document = _parse(body, json_length)
        asked = self._asked(document)
        listed = document.get("inputs")
        if not isinstance(listed, list) or not listed:
            raise BadInput(
                f"inputs: expected a list of input tensors, got {_got(listed)}; {self._expected()}",
                reason="NotInferenceRequest",
            )
        if len(listed) > MAX_FIELDS:
            raise BadInput(
                f"inputs: there are {len(listed)}; at most {MAX_FIELDS} fit in one request",
                reason="WrongFields",
            )
        tail = Tail(body, json_length)
        found: dict[str, Array] = {}
        keys: dict[str, Sequence[Any]] = {}
        sent: list[Tensor] = []
        for number, item in enumerate(listed):
            one = tensor(item, number)
            if one.name in found or one.name in keys:
                raise self._wrong_inputs(f"input {one.said} is there twice", one.name)
            sent.append(one)
            _check_rows(one, sent[0])
            if one.name not in self._keys:
                found[one.name] = one.array(tail, self._field(one))
                continue
            at = tail.at
            keys[one.name] = one.values(tail)
            if self.fields is None:
                # Code that takes whatever comes gets keys as well, also where rows have none.
                tail.at = at
                found[one.name] = one.column(tail)
        if tail.left:
            raise BadInput(
                f"{tail.left} bytes of binary data are left over after the last input; "
                "the values of binary_data_size must add up to all of it",
                reason="WrongBinary",
            )
        rows = sent[0].rows
        for name in self._keys - keys.keys():
            keys[name] = [None] * rows
        return Batch(fields=self._complete(found), rows=rows, keys=keys), asked

    def _complete(self, found: dict[str, Array]) -> dict[str, Array]:
        """The inputs in the pipeline's order, or in that of the tensors. Raises BadInput when one is missing."""
        if self.fields is None:
            return found
        missing = [field.name for field in self.fields if field.name not in found]
        if missing:
            raise self._wrong_inputs(
                f"input {', '.join(map(repr, missing))} is missing", missing[0]
            )
        if self._as_sent:
            return found
        return {field.name: found[field.name] for field in self.fields}

    def _field(self, sent: Tensor) -> Field:
        """The field that a tensor is for, which it is known to fit then. Raises BadInput."""
        if self.fields is None:
            return sent.field(allow_missing=True)
        field = self._by_name.get(sent.name)
        if field is None:
            raise self._wrong_inputs(f"there is no input {sent.said}", sent.name)
        wanted = DATATYPES[field.dtype]
        if sent.datatype != wanted:
            raise BadInput(
                f"input {sent.said}: the datatype is {sent.datatype}, the model expects {wanted}",
                reason="WrongType",
                field=sent.name,
            )
        if not field.accepts(sent.shape[1:]):
            raise BadInput(
                f"input {sent.said}: wrong shape, expected {list(tensor_shape(field))}, got {list(sent.shape)}",
                reason="WrongShape",
                field=sent.name,
            )
        return field

    def _asked(self, document: dict[str, Any]) -> Asked:
        identity = document.get("id")
        if identity is not None and not isinstance(identity, str):
            raise _malformed("id", "a string", identity)
        parameters = _parameters(document, "parameters")
        if parameters.get("sequence_id"):
            raise BadInput(
                "parameters.sequence_id: sequences are not supported; each request stands for itself",
                reason="NotSupported",
            )
        binary = _flag(parameters, "binary_data_output", "parameters")
        listed = document.get("outputs")
        if listed is None or listed == []:
            return Asked(identity, None, bool(binary))
        if not isinstance(listed, list):
            raise _malformed("outputs", "a list", listed)
        outputs: dict[str, AskedOutput] = {}
        for number, item in enumerate(listed):
            wanted = self._asked_output(f"outputs[{number}]", item, bool(binary))
            if wanted.name in outputs:
                raise BadInput(
                    f"outputs[{number}]: output {wanted.name[:SHOWN]!r} is asked for twice",
                    reason="UnknownOutput",
                )
            outputs[wanted.name] = wanted
        return Asked(identity, tuple(outputs.values()), bool(binary))

    def _asked_output(self, where: str, item: Any, binary: bool) -> AskedOutput:
        if not isinstance(item, dict):
            raise _malformed(where, "an object with a name", item)
        name = item.get("name")
        if not isinstance(name, str) or not name:
            raise _malformed(f"{where}.name", "the name of an output", name)
        parameters = _parameters(item, f"{where}.parameters")
        for unsupported in ("classification", "shared_memory_region"):
            if unsupported in parameters:
                raise BadInput(
                    f"{where}.parameters.{unsupported} is not supported; outputs come as tensors in the body",
                    reason="NotSupported",
                )
        if self._knows is not None and not self._knows(name):
            raise unknown_output(name, self._outputs)
        wanted = _flag(parameters, "binary_data", f"{where}.parameters")
        return AskedOutput(name, binary if wanted is None else wanted)

    def _wrong_inputs(self, said: str, name: str) -> BadInput:
        return BadInput(f"{said}; {self._expected()}", reason="WrongFields", field=name[:SHOWN])

    def _expected(self) -> str:
        if self.fields is None:
            return "this pipeline's first step takes any inputs"
        return f"expected inputs: {listed_fields(self.fields)}"


def unknown_output(name: str, there: Iterable[str]) -> BadInput:
    """there: the names that there are, none where they are not known."""
    names = list(there)
    listed = ", ".join(repr(each[:SHOWN]) for each in names[:_LISTED])
    more = ", …" if len(names) > _LISTED else ""
    are = f"; there are {listed}{more}" if names else ""
    return BadInput(
        f"there is no output {name[:SHOWN]!r}{are}; leave outputs out to get all",
        reason="UnknownOutput",
        field=name[:SHOWN],
    )


def tensor_shape(field: Field) -> tuple[int, ...]:
    """A field's shape as the protocol has it: with the rows first, and -1 for any length."""
    return (-1, *(-1 if length is None else length for length in field.shape))


def listed_fields(fields: Sequence[Field]) -> str:
    return ", ".join(
        f"{field.name!r} ({DATATYPES[field.dtype]} "
        f"{list(tensor_shape(field)) if field.ranked else 'of any shape'})"
        for field in fields
    )


def _check_rows(sent: Tensor, first: Tensor) -> None:
    if sent.rows == 0:
        raise BadInput(
            f"input {sent.said} has no rows (shape {list(sent.shape)}); send at least one",
            reason="NoRows",
        )
    if sent.rows > MAX_ROWS:
        raise BadInput(
            f"input {sent.said} has {sent.rows} rows; at most {MAX_ROWS} fit in one request",
            reason="TooManyRows",
        )
    if sent.rows != first.rows:
        raise BadInput(
            f"input {sent.said} has {sent.rows} rows, input {first.said} has {first.rows}; "
            "all inputs of one request need the same number of rows",
            reason="WrongShape",
            field=sent.name[:SHOWN],
        )


def _parse(body: bytes, json_length: int | None) -> dict[str, Any]:
    text = body
    if json_length is not None:
        if json_length > len(body):
            raise BadInput(
                f"the header Inference-Header-Content-Length is {json_length}, the whole body has {len(body)} bytes",
                reason="WrongBinary",
            )
        text = body[:json_length]
    if not text.strip():
        raise BadInput("the body is empty; send a request as JSON", reason="EmptyBody")
    try:
        document, _ = parse_body(text)
    except BadInput as error:
        if json_length is not None or b'"binary_data_size"' not in text:
            raise
        raise BadInput(
            f"{error.message}; with binary data behind the JSON, send its length in Inference-Header-Content-Length",
            reason=error.reason,
        ) from error
    if not isinstance(document, dict):
        raise BadInput(
            f'the body is {kind_said(document)}; send {{"inputs": [{{"name", "shape", "datatype", "data"}}]}}',
            reason="NotInferenceRequest",
        )
    return document


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _malformed(where, "an object", parameters)
    return parameters


def _flag(parameters: dict[str, Any], name: str, where: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise _malformed(f"{where}.{name}", "true or false", value)
    return value


def _malformed(where: str, wanted: str, got: Any) -> BadInput:
    return BadInput(f"{where}: expected {wanted}, got {_got(got)}", reason="NotInferenceRequest")


def _got(value: Any) -> str:
    """What is there, where something is missing or of another kind."""
    return "nothing" if value is None or value == [] else kind_said(value)
