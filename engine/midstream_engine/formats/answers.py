"""Answers in JSON: pandas-records, one object for each row, and columnar, one list for each column.

The usual answer, with everything in it, is put together from texts that are made once for each revision; an answer that
selects columns goes by the table.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Protocol

import numpy as np

from midstream_engine.batch import Checks, Choice, Facts, Result
from midstream_engine.formats.jsontext import array_text, dumps, row_texts
from midstream_engine.formats.negotiation import Format
from midstream_engine.formats.selection import Selection
from midstream_engine.formats.table import (
    Coded,
    Column,
    columns,
    failures_of,
    inputs,
    last_model,
    last_of_split,
    split_text,
)

_REMEMBERED = 1000
"""Texts of one kind that a writer keeps."""
_LONG = 200
"""Characters of a name that is not kept: it may be a caller's, by way of code that declares no outputs."""

_NO_ANOMALY = b',"anomaly":{"count":0}'

_Texts = bytes | Sequence[bytes]
"""One text for all rows, or one for each."""


class AnswerWriter(Protocol):
    """Turns results into bodies. Made once for each revision; the results it gets are of that revision."""

    content_type: bytes

    def write(self, result: Result, selection: Selection | None = None) -> bytes:
        """The body of an answer; selection None is all columns. Raises BadInput for a selection that does not fit."""
        ...


class RecordsWriter:
    """A list with an object for each row: time, in, out, anomaly, metadata."""

    content_type = Format.RECORDS.value.encode()

    def __init__(self, outputs: Iterable[str] | None, facts: Facts) -> None:
        """Write for a revision. outputs: names of the last step's; None when only running it tells."""
        self._facts = facts
        self._prefixes: dict[str, bytes] = {}
        for name in outputs or ():
            self._prefix(name)
        self._anomalies: dict[bytes, bytes] = {}
        self._variants: dict[tuple[tuple[int, ...], bool], tuple[bytes, bytes, bytes]] = {}
        self._single: dict[tuple[Choice | Checks | None, ...] | None, tuple[bytes, bytes]] = {}
        names = [name for name, _ in facts.validations]
        self._flags = [(b",%b:true" % dumps(n), b",%b:false" % dumps(n)) for n in names]
        self._before_elapsed = self._metadata(last_model(facts))
        self._after_elapsed = b'],"dropped":[],"partition":%b' % dumps(facts.partition)

    def write(self, result: Result, selection: Selection | None = None) -> bytes:
        if selection is not None:
            return self._write_selected(result, selection)
        batch = result.batch
        sent = batch.echo if batch.echo is not None else self._objects(inputs(batch), batch.rows)
        head = b'{"time":%d,"in":' % result.time_ms
        elapsed = ",".join(map(str, result.elapsed)).encode() + self._after_elapsed
        outs = self._outputs(result)
        if batch.rows == 1 and not result.shadows:
            middle, end = self._around_elapsed(result)
            return b'[%b%b,"out":{%b%b%b%b' % (head, sent[0], outs[0], middle, elapsed, end)
        if result.checks is None and not result.choices and not result.shadows:
            tail = b"}%b%b%b}}" % (_NO_ANOMALY, self._before_elapsed, elapsed)
            rows = [b'%b,"out":{%b' % pair for pair in zip(sent, outs, strict=True)]
            return b"[%b%b%b]" % (head, (tail + b"," + head).join(rows), tail)
        before: _Texts = self._before_elapsed
        splits: _Texts = b""
        variants: _Texts = b""
        if result.choices:
            splits, variants, before = self._split_texts(result.choices, bool(result.outputs))
        anomalies = self._anomaly_texts(result.checks)
        parts = zip(
            sent,
            outs,
            _each(splits),
            _each(anomalies),
            _each(self._shadow_texts(result)),
            _each(before),
            _each(variants),
            strict=False,
        )
        return b"[%b]" % b",".join(
            [
                b'%b%b,"out":{%b%b}%b%b%b%b%b}}'
                % (head, row, out, split, anomaly, shadow, metadata, elapsed, variant)
                for row, out, split, anomaly, shadow, metadata, variant in parts
            ]
        )

    def _around_elapsed(self, result: Result) -> tuple[bytes, bytes]:
        """Of a single row without challengers, the texts between outputs and elapsed times, and behind those."""
        choices, checks = result.choices, result.checks
        # What says the same is the same object, mostly.
        key = (*choices, checks) if result.outputs else None
        known = self._single.get(key)
        if known is not None:
            return known
        splits = variants = b""
        before = self._before_elapsed
        if choices:
            picks = tuple([choice.picked.item() for choice in choices])
            splits, variants, before = self._split(choices, picks, bool(result.outputs))
        anomaly = _NO_ANOMALY if checks is None else self._anomaly(checks.failed.tobytes(), checks)
        known = b"%b}%b%b" % (splits, anomaly, before), variants + b"}}]"
        shared = all(each.only is not None for each in (*choices, checks) if each is not None)
        if key is not None and shared and len(self._single) < _REMEMBERED:
            self._single[key] = known
        return known

    def _prefix(self, name: str) -> bytes:
        """`"name":`"""
        known = self._prefixes.get(name)
        if known is None:
            known = dumps(name) + b":"
            if len(self._prefixes) < _REMEMBERED and len(name) < _LONG:
                self._prefixes[name] = known
        return known

    def _outputs(self, result: Result) -> Sequence[bytes]:
        """Each row's outputs, without the braces."""
        outputs = result.outputs
        if len(outputs) == 1:
            ((name, array),) = outputs.items()
            prefix = self._prefix(name)
            return [prefix + text for text in row_texts(array, name)]
        return self._joined(list(outputs.items()), result.batch.rows)

    def _joined(self, pairs: Sequence[tuple[str, Any]], rows: int) -> Sequence[bytes]:
        """`"a":1,"b":2` of each row."""
        if not pairs:
            return [b""] * rows
        texts = [
            [prefix + text for text in _column_texts(values, name, rows)]
            for name, values in pairs
            for prefix in (self._prefix(name),)
        ]
        return [b",".join(row) for row in zip(*texts, strict=True)]

    def _objects(self, found: Sequence[Column], rows: int) -> Sequence[bytes]:
        joined = self._joined([(column.name, column.values) for column in found], rows)
        return [b"{%b}" % text for text in joined]

    def _anomaly_texts(self, checks: Checks | None) -> _Texts:
        if checks is None:
            return _NO_ANOMALY
        # The same failures make the same text: one byte for each validation tells them apart.
        packed = checks.failed.T.tobytes()
        width = len(checks.names)
        return [
            self._anomaly(packed[place : place + width], checks)
            for place in range(0, len(packed), width)
        ]

    def _anomaly(self, failed: bytes, checks: Checks) -> bytes:
        known = self._anomalies.get(failed)
        if known is None:
            flags = zip(self._flags, failed, strict=True)
            known = b',"anomaly":{"count":%d%b},"check_failures":%b' % (
                sum(failed),
                b"".join(true if fails else false for (true, false), fails in flags),
                dumps(failures_of(checks.failures, [bool(fails) for fails in failed])),
            )
            if len(self._anomalies) < _REMEMBERED:
                self._anomalies[failed] = known
        return known

    def _metadata(self, model: str) -> bytes:
        """What stands before the elapsed times. model: of the last step, as a JSON text."""
        return b',"metadata":{"last_model":%b,"pipeline_version":%b,"elapsed":[' % (
            dumps(model),
            dumps(self._facts.version),
        )

    def _split_texts(self, choices: Sequence[Choice], comma: bool) -> tuple[_Texts, _Texts, _Texts]:
        """What stands behind the outputs, behind the metadata and before the elapsed times of each row."""
        picks = zip(*(choice.picked.tolist() for choice in choices), strict=True)
        texts = [self._split(choices, pick, comma) for pick in picks]
        if len(texts) == 1:
            return texts[0]
        return (
            [one for one, _, _ in texts],
            [two for _, two, _ in texts],
            [end for *_, end in texts],
        )

    def _split(
        self, choices: Sequence[Choice], picks: tuple[int, ...], comma: bool
    ) -> tuple[bytes, bytes, bytes]:
        known = self._variants.get((picks, comma))
        if known is None:
            pairs = list(zip(choices, picks, strict=True))
            names = {choice.step: choice.variants[pick].name for choice, pick in pairs}
            known = (
                b'%b"_model_split":%b'
                % (
                    b"," if comma else b"",
                    dumps([split_text(choice, pick) for choice, pick in pairs]),
                ),
                b',"variants":%b' % dumps(names),
                self._metadata(last_of_split(choices[-1], picks[-1]))
                if self._facts.split_last
                else self._before_elapsed,
            )
            if len(self._variants) < _REMEMBERED:
                self._variants[picks, comma] = known
        return known

    def _shadow_texts(self, result: Result) -> _Texts:
        if not result.shadows:
            return b""
        rows = result.batch.rows
        texts: list[Sequence[bytes]] = []
        for challenger, outputs in result.shadows.items():
            prefix = b"," + self._prefix(f"out_{challenger}")
            if outputs is None:
                texts.append([prefix + b"null"] * rows)
            else:
                joined = self._joined(list(outputs.items()), rows)
                texts.append([b"%b{%b}" % (prefix, text) for text in joined])
        return [b"".join(parts) for parts in zip(*texts, strict=True)]

    def _write_selected(self, result: Result, selection: Selection) -> bytes:
        everything = columns(result, self._facts)
        chosen = selection.apply(everything)
        rows = result.batch.rows
        if selection.flat:
            flat = self._joined([(column.full_name, column.values) for column in chosen], rows)
            return b"[%b]" % b",".join([b"{%b}" % row for row in flat])
        groups: dict[str, list[Column]] = {}
        for column in chosen:
            groups.setdefault(column.group or column.name, []).append(column)
        texts: list[Sequence[bytes]] = []
        for name, members in groups.items():
            prefix = self._prefix(name)
            sent = result.batch.echo
            if members[0].group is None:
                values = _column_texts(members[0].values, name, rows)
            elif name == "in" and sent is not None and members == inputs(result.batch):
                values = sent
            else:
                values = self._objects(members, rows)
            texts.append([prefix + text for text in values])
        if not texts:
            return b"[%b]" % b",".join([b"{}"] * rows)
        return b"[%b]" % b",".join([b"{%b}" % b",".join(row) for row in zip(*texts, strict=True)])


class ColumnarWriter:
    """An object with a list for each column, by its full name."""

    content_type = Format.COLUMNAR.value.encode()

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def write(self, result: Result, selection: Selection | None = None) -> bytes:
        found = columns(result, self._facts)
        if selection is not None:
            found = selection.apply(found)
        rows = result.batch.rows
        return b"{%b}" % b",".join(
            [
                b"%b:%b" % (dumps(column.full_name), _list_text(column.values, column.name, rows))
                for column in found
            ]
        )


def _list_text(values: Any, name: str, rows: int) -> bytes:
    """A column as one list."""
    if isinstance(values, Coded):
        return b"[%b]" % b",".join(_column_texts(values, name, rows))
    return array_text(values, name) if isinstance(values, np.ndarray) else dumps(values)


def _column_texts(values: Any, name: str, rows: int) -> Sequence[bytes]:
    """Each row's text of a column."""
    if isinstance(values, Coded):
        texts = [dumps(choice) for choice in values.choices]
        if values.codes is None:
            return texts * rows
        return [texts[code] for code in values.codes.tolist()]
    if isinstance(values, Sequence):
        return [dumps(value) for value in values]
    return row_texts(values, name)


def _each(texts: _Texts) -> Iterable[bytes]:
    return repeat(texts) if isinstance(texts, bytes) else texts
