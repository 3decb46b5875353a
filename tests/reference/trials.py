"""One request to a pipeline, in one format: how it is sent, and what its answer has to be."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from midstream_engine.dataplane import Answer
from reference import wire
from reference.manifests import Asked
from reference.pipelines import (
    Expected,
    Pipeline,
    allowed,
    answered,
    expected_failure,
)
from reference.selections import Selection
from reference.values import Array, Column, Refused, Table, array_of, found, read, typed
from reference.wire import Read, Sent

SENDINGS = ("records", "columnar", "arrow", "stream", "tensors", "binary")
"""Ways to send rows."""

_OIP = "/v2/models/house-price/infer"

_METADATA = ("last_model", "pipeline_version", "elapsed", "dropped", "partition")


class Trial:
    def __init__(self, pipeline: Pipeline, asked: Asked, sending: str) -> None:
        self.pipeline = pipeline
        self.asked = asked
        self.sending = sending
        self.rows = len(asked.rows)
        self.typed = sending not in ("records", "columnar")
        self.tensors = sending in ("tensors", "binary")
        self.literal: float | None = None
        self.selection = Selection()
        self.wanted: list[str] | None = None
        """Names of tensors that are asked for; None for all."""
        self.lossless = False
        """Tensors come as binary data."""
        self._encoding = ""
        self._fixed = False
        self.keys = [Column(name, dtype) for name, dtype in asked.key_types.items()]
        self.table = self._table()

    def _table(self) -> Table:
        declared = self.pipeline.steps[0].takes is not None
        rows = self._rows()
        table = {}
        # Code that takes whatever comes gets keys as well.
        for column in [*self.asked.columns, *([] if declared else self.keys)]:
            values = [row[column.name] for row in rows]
            if declared:
                table[column.name] = [read(column, value) for value in values]
            elif self.typed:
                table[column.name] = typed(values, column.dtype)
            else:
                table[column.name] = found(values)
        return table

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {**row, **{name: values[number] for name, values in self.asked.keys.items()}}
            for number, row in enumerate(self.asked.rows)
        ]

    # Sending

    def sent(self) -> st.SearchStrategy[Sent]:
        """The request, in any of its forms."""

        @st.composite
        def made(draw: st.DrawFn) -> Sent:
            sent = self._body(draw)
            if draw(st.booleans()) and self.pipeline.splits:
                text = draw(st.sampled_from(["0", "0.4", "0.5", "1", "0.99", "3e-1"]))
                self.literal = float(text)
                sent.headers["x-midstream-split-key"] = text
            encoding = self._encoding = draw(st.sampled_from(["", "", "gzip", "deflate", "zstd"]))
            if encoding:
                sent.body = wire.pack(sent.body, encoding)
                sent.headers["content-encoding"] = encoding
            accepted = draw(st.sampled_from(["", "gzip", "zstd, gzip;q=0.5"]))
            sent.headers["accept-encoding"] = accepted
            if not self.tensors:
                sent.headers["accept"] = draw(st.sampled_from(["", "*/*", *wire.FORMATS]))
                if draw(st.booleans()):
                    self.selection = draw(self._selections())
                    sent.path += "?" + self.selection.query
            return sent

        return made()

    def _body(self, draw: st.DrawFn) -> Sent:
        rows = self._rows()
        columns = [*self.asked.columns, *self.keys]
        match self.sending:
            case "records":
                if self.pipeline.steps[0].takes is not None and draw(st.booleans()):
                    rows = [_without_nulls(row, self.asked.keys) for row in rows]
                return Sent(wire.records(rows), headers={"content-type": wire.RECORDS})
            case "columnar":
                body = wire.columnar(rows, [column.name for column in columns])
                kind = draw(st.sampled_from([wire.COLUMNAR, "application/json", ""]))
                return Sent(body, headers={"content-type": kind})
            case "arrow" | "stream":
                self._fixed = draw(st.booleans())
                kind = wire.ARROW_FILE if self.sending == "arrow" else wire.ARROW_STREAM
                return Sent(self.arrow(fixed=self._fixed), headers={"content-type": kind})
            case _:
                return self._tensors(draw, rows, columns)

    def turned(self, sent: Sent) -> "tuple[Trial, Sent]":
        """The same in Arrow with the last row first: a body of the same columns and lengths, with other values."""
        asked = self.asked
        keys = {name: values[::-1] for name, values in asked.keys.items()}
        other = Trial(self.pipeline, replace(asked, rows=asked.rows[::-1], keys=keys), self.sending)
        other.literal, other.selection = self.literal, self.selection
        body = other.arrow(fixed=self._fixed)
        packed = wire.pack(body, self._encoding) if self._encoding else body
        return other, replace(sent, body=packed)

    def arrow(self, *, fixed: bool) -> bytes:
        """The body. fixed: lists have a fixed size, where they have one."""
        columns = [*self.asked.columns, *self.keys]
        return wire.arrow(self._rows(), columns, file=self.sending == "arrow", fixed=fixed)

    def _tensors(
        self, draw: st.DrawFn, rows: Sequence[dict[str, Any]], columns: Sequence[Column]
    ) -> Sent:
        more: dict[str, Any] = {"id": "7"}
        self.lossless = draw(st.booleans())
        if self.lossless:
            more["parameters"] = {"binary_data_output": True}
        if draw(st.booleans()):
            self.wanted = draw(st.permutations(self._names()))
            more["outputs"] = [{"name": name} for name in self.wanted]
        body, length = wire.tensors(rows, columns, binary=self.sending == "binary", **more)
        headers = {} if length is None else {"inference-header-content-length": str(length)}
        return Sent(body, _OIP, headers)

    def _selections(self) -> st.SearchStrategy[Selection]:
        known = [
            "*",
            "time",
            "in",
            "out",
            "anomaly",
            "anomaly.count",
            "metadata",
            "metadata.elapsed",
        ]
        known += [f"in.{name}" for name in self.table]
        if self.pipeline.checks:
            known += ["check_failures", f"anomaly.{self.pipeline.checks[0].name}"]
        names = st.lists(st.sampled_from(known), max_size=3)
        # Without it nothing says who answered a row.
        always = ("metadata.variants",) if self.pipeline.splits else ()
        return st.builds(Selection, names, names, st.booleans(), st.just(always))

    def _names(self) -> list[str]:
        """Tensors that can be asked for."""
        guess = [{step: min(names) for step, names in row.items()} for row in self._may()]
        first = {name: values[:1] for name, values in self.table.items()}
        names = list(answered(self.pipeline, first, guess[:1]).outputs)
        if self.pipeline.splits:
            names.append("_model_split")
        if self.pipeline.checks:
            names += ["anomaly.count", *(f"anomaly.{each.name}" for each in self.pipeline.checks)]
        return names

    # Judging

    def check(self, answer: Answer) -> None:
        """Fail where the answer is not what the reference says."""
        if b'"RaggedOutput"' in answer.body:
            self._check_ragged()
            return
        assert answer.status == 200, answer.body.decode()
        got = wire.read(answer)
        if self.tensors:
            self._check_tensors(got)
            return
        if not got.rows:  # without columns there are none
            assert not any(map(self.selection.keeps, ("time", "anomaly.count", "metadata.elapsed")))
            return
        assert len(got.rows) == self.rows
        told = [row.get("metadata.variants") or {} for row in got.rows]
        self._check_variants(told)
        expected = answered(self.pipeline, self.table, told)
        for number, row in enumerate(got.rows):
            self._check_row(row, self._wanted_row(number, expected), lossless=got.lossless)
            self._check_said(row, expected.failed[number], told[number])

    def _check_ragged(self) -> None:
        """Rows differ in shape where a model takes all of them, or an answer's tensor."""
        assert self.rows > 1
        assert self._may_be_ragged
        told = self._certain()
        if told is None:
            return
        try:
            answered(self.pipeline, self.table, told)
        except Refused:
            return
        assert self.tensors

    @property
    def _may_be_ragged(self) -> bool:
        return any(
            None in column.shape
            for step in self.pipeline.steps
            for place in step.places
            for column in place.model.gives or ()
        )

    def _may(self) -> list[dict[str, set[str]]]:
        """Of each row, who may answer it at each split."""
        return [
            {
                step.name: allowed(step, self._key(step.hash_key or step.key, row), self.literal)
                for step in self.pipeline.splits
            }
            for row in range(self.rows)
        ]

    def _key(self, name: str | None, row: int) -> Any:
        if name is None:
            return None
        if name not in self.asked.keys:
            return self.table[name][row]
        value = self.asked.keys[name][row]
        if value is None or not self.typed:
            return value
        return array_of(value, self.asked.key_types[name])[()]

    def _check_variants(self, told: Sequence[Mapping[str, str]]) -> None:
        for row, (variants, may) in enumerate(zip(told, self._may(), strict=True)):
            assert variants.keys() == may.keys()
            for step, name in variants.items():
                assert name in may[step], (row, step, may)

    def _wanted_row(self, number: int, expected: Expected) -> dict[str, Any]:
        """All that a row holds of values."""
        want: dict[str, Any] = {f"in.{name}": each[number] for name, each in self.table.items()}
        for name in self.asked.keys.keys() - self.table.keys():
            value, dtype = self.asked.keys[name][number], self.asked.key_types[name]
            is_float = value is not None and dtype.startswith("float")
            want[f"in.{name}"] = np.asarray(value, dtype) if is_float else value
        want |= {f"out.{name}": each[number] for name, each in expected.outputs.items()}
        for challenger, outputs in expected.shadows.items():
            group = f"out_{challenger}"
            if outputs is None:
                want[group] = None
            else:
                want |= {f"{group}.{name}": each[number] for name, each in outputs.items()}
        failed = expected.failed[number]
        want["anomaly.count"] = sum(failed)
        for check, fails in zip(self.pipeline.checks, failed, strict=True):
            want[f"anomaly.{check.name}"] = fails
        return want

    def _check_row(
        self, row: Mapping[str, Any], want: Mapping[str, Any], *, lossless: bool
    ) -> None:
        for name, value in want.items():
            if not self.selection.keeps(name):
                continue
            if name not in row and value is None and name.startswith("in."):
                continue  # a key that was not sent
            assert name in row, (name, list(row))
            assert same(value, row[name], lossless=lossless), (name, value, row[name])
        fixed = {"time", *(f"metadata.{name}" for name in _METADATA)}
        if self.pipeline.splits:
            fixed |= {"out._model_split", "metadata.variants"}
        if self.pipeline.checks:
            fixed.add("check_failures")
        assert row.keys() - want.keys() == {name for name in fixed if self.selection.keeps(name)}

    def _check_said(
        self, row: Mapping[str, Any], failed: Sequence[bool], told: Mapping[str, str]
    ) -> None:
        """What is told in texts."""
        models = {step: self._model(step, name) for step, name in told.items()}
        if "out._model_split" in row:
            split = [json.loads(text)["name"] for text in row["out._model_split"]]
            assert split == list(models.values())
        if "check_failures" in row:
            said = [json.loads(x) if isinstance(x, str) else x for x in row["check_failures"]]
            checks = zip(self.pipeline.checks, failed, strict=True)
            assert said == [expected_failure(check) for check, fails in checks if fails]
        if "metadata.elapsed" in row:
            assert len(row["metadata.elapsed"]) == 1 + len(self.pipeline.steps)
        if "metadata.last_model" in row:
            last = self.pipeline.steps[-1]
            model = models.get(last.name, last.places[0].model.name)
            assert json.loads(row["metadata.last_model"])["model_name"] == model

    def _model(self, step: str, variant: str) -> str:
        (places,) = (each.places for each in self.pipeline.steps if each.name == step)
        (name,) = (place.model.name for place in places if place.name == variant)
        return name

    # Judging tensors

    def _check_tensors(self, got: Read) -> None:
        told = self._told(got)
        if told is None:
            return  # a row might have got either of several variants
        self._check_variants(told)
        expected = answered(self.pipeline, self.table, told)
        want = self._wanted_tensors(expected)
        assert list(got.columns) == (list(want) if self.wanted is None else self.wanted)
        for name, values in got.columns.items():
            if name == "_model_split":
                continue
            for number, value in enumerate(values):
                assert same(want[name][number], value, lossless=self.lossless), (name, number)
        said = got.parameters
        assert said.get("anomaly_count", 0) == sum(map(sum, expected.failed))
        split = json.loads(said.get("model_split", "[]"))
        assert {(each["step"], each["variant"]): each["rows"] for each in split} == Counter(
            pair for variants in told for pair in variants.items()
        )
        failed = [name for name, outputs in expected.shadows.items() if outputs is None]
        assert said.get("challengers_failed", "") == ",".join(failed)

    def _wanted_tensors(self, expected: Expected) -> dict[str, Sequence[Any]]:
        want: dict[str, Sequence[Any]] = {**expected.outputs}
        for challenger, outputs in expected.shadows.items():
            want |= {f"out_{challenger}.{name}": each for name, each in (outputs or {}).items()}
        if self.wanted is not None:
            want["anomaly.count"] = [sum(row) for row in expected.failed]
            for number, check in enumerate(self.pipeline.checks):
                want[f"anomaly.{check.name}"] = [row[number] for row in expected.failed]
        return want

    def _told(self, got: Read) -> list[dict[str, str]] | None:
        """The variants of each row; None where an answer does not say."""
        splits = self.pipeline.splits
        if "_model_split" in got.columns:
            of_model = {p.model.name: p.name for step in splits for p in step.places}
            return [
                {
                    step.name: of_model[json.loads(text)["name"]]
                    for step, text in zip(splits, texts, strict=True)
                }
                for texts in got.columns["_model_split"]
            ]
        return self._certain()

    def _certain(self) -> list[dict[str, str]] | None:
        """The variants of each row; None where chance decides."""
        may = self._may()
        if all(len(names) == 1 for row in may for names in row.values()):
            return [{step: next(iter(names)) for step, names in row.items()} for row in may]
        return None


def _without_nulls(row: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """A row may do without a key."""
    return {name: value for name, value in row.items() if value is not None or name not in keys}


def same(want: Any, got: Any, *, lossless: bool) -> bool:
    """Equal to the last bit; what JSON cannot hold is null there, or NaN once it is an array."""
    if not isinstance(want, np.ndarray):
        return bool(want == got) and (want is None) == (got is None)
    if want.dtype.kind != "f":
        return bool(want.tolist() == got)
    if want.ndim:
        return (
            isinstance(got, list)
            and len(got) == len(want)
            and all(
                same(np.asarray(a), b, lossless=lossless) for a, b in zip(want, got, strict=True)
            )
        )
    if got is None or isinstance(got, list):
        return got is None and not lossless and not np.isfinite(want)
    if not lossless and not np.isfinite(want):
        return math.isnan(got)
    back: Array = np.asarray(got).astype(want.dtype)
    return bool(back.tobytes() == want.tobytes() or (np.isnan(back) and np.isnan(want)))
