"""Answers with everything that a pipeline can have, in JSON; and queries that choose columns of them."""

import json
from typing import Any

import numpy as np
import orjson
import pytest

from kit import tables
from kit.records import f32, ragged, result
from midstream_engine.batch import Batch, Checks, Facts, Result
from midstream_engine.errors import BadInput, StepFailed
from midstream_engine.formats.answers import ColumnarWriter, RecordsWriter
from midstream_engine.formats.selection import Selection, parse_selection
from midstream_engine.formats.table import columns
from midstream_engine.schema import Array

RECORDS = RecordsWriter(["variable", "label"], tables.FACTS)
COLUMNAR = ColumnarWriter(tables.FACTS)
EVERYTHING = Selection(("*", "metadata"))


def records(result: Result, query: str = "") -> list[dict[str, Any]]:
    """The rows that a query leaves."""
    rows: list[dict[str, Any]] = orjson.loads(
        RECORDS.write(result, parse_selection(query.encode()))
    )
    return rows


# Everything


@pytest.mark.parametrize("rows", [1, 2, 3, 50])
@pytest.mark.parametrize("failed", [False, True])
def test_an_answer_has_all_that_a_pipeline_can_have(rows: int, failed: bool) -> None:
    """Keys, variants, failed checks and challengers of each row, in the documented order."""
    made = tables.full(rows, failed=failed)
    answered = records(made)
    assert answered == tables.expected(made)
    assert list(answered[0]) == list(tables.expected(made)[0])
    assert records(made) == answered  # from texts that were kept


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("failed", [False, True])
def test_the_fast_answer_and_the_table_agree(rows: int, failed: bool) -> None:
    """Choosing all columns says the same as choosing none, byte for byte."""
    made = tables.full(rows, failed=failed)
    assert RECORDS.write(made) == RECORDS.write(made, EVERYTHING)
    made = tables.plain({"variable": f32([[1.5]] * rows)}, {"tensor": f32([[1, 2]] * rows)})
    writer = RecordsWriter(None, tables.PLAIN_FACTS)
    assert writer.write(made) == writer.write(made, EVERYTHING)


@pytest.mark.parametrize("rows", [1, 3])
def test_flat_answers_have_dotted_names(rows: int) -> None:
    """The same values in the same order, rows as records or columns as lists."""
    made = tables.full(rows)
    wanted = [tables.flattened(row) for row in tables.expected(made)]
    answered = records(made, "dataset_separator=.")
    assert answered == wanted
    assert list(answered[0]) == list(wanted[0])
    listed = orjson.loads(COLUMNAR.write(made))
    assert listed == {name: [row[name] for row in wanted] for name in wanted[0]}
    assert list(listed) == list(wanted[0])


def test_the_echo_is_kept_where_all_of_it_is_chosen() -> None:
    """As it was sent, digit by digit; one field alone is written with the values that the model got."""
    sent = [b'{"tensor":[0.0,1.00],"session":"s0"}']
    made = tables.full(1, sent)
    assert b'"in":{"tensor":[0.0,1.00],"session":"s0"}' in RECORDS.write(made)
    for query in (b"dataset=in", b"dataset=*", b"dataset_exclude=metadata"):
        assert b'"in":{"tensor":[0.0,1.00],"session":"s0"}' in RECORDS.write(
            made, parse_selection(query)
        )
    assert b'[{"in":{"tensor":[0.0,1.0]}}]' == RECORDS.write(
        made, parse_selection(b"dataset=in.tensor")
    )


def test_many_validations_are_written_row_by_row() -> None:
    """Each row has its own pattern of failures, more of them than a writer keeps texts of."""
    chance = np.random.default_rng(5)
    names = tuple(f"check_{n}" for n in range(20))
    failures = tuple({"False": {"expr": f"a < {n}"}} for n in range(20))
    facts = Facts("p", "v", "e", "m", "", validations=tuple(zip(names, failures, strict=True)))
    failed = chance.random((20, 3000)) < 0.5
    made = result(None, {"x": f32(np.zeros(3000))}, checks=Checks(names, failures, failed))
    answered = orjson.loads(RecordsWriter(["x"], facts).write(made))
    for row, fails in zip(answered, failed.T.tolist(), strict=True):
        assert row["anomaly"] == {"count": sum(fails), **dict(zip(names, fails, strict=True))}
        assert row["check_failures"] == [f for f, no in zip(failures, fails, strict=True) if no]


OUTPUTS: dict[str, tuple[Array, list[Any]]] = {
    "strings": (np.array(["a", '"', "}"], object), ["a", '"', "}"]),
    "lists of strings": (np.array([["a", ","], ["],[", ""]], object), [["a", ","], ["],[", ""]]),
    "strings and null": (np.array(["a", None], object), ["a", None]),
    "fixed strings": (np.array(["a", "bb"]), ["a", "bb"]),
    "integers to the last digit": (np.array([[2**53 + 1], [-(2**63)]]), [[2**53 + 1], [-(2**63)]]),
    "unsigned": (np.array([2**64 - 1, 0], np.uint64), [2**64 - 1, 0]),
    "halves": (np.array([[0.5], [65504]], np.float16), [[0.5], [65504]]),
    "flags": (np.array([True, False]), [True, False]),
    "gaps": (f32([[np.nan, 1], [np.inf, -np.inf]]), [[None, 1], [None, None]]),
}


OUTPUTS["rows of different lengths"] = (ragged([1, 2], [3], []), [[1, 2], [3], []])
OUTPUTS["rows of different shapes"] = (ragged([[1, 2]], [[3], [4]]), [[[1, 2]], [[3], [4]]])
OUTPUTS["rows of different depths"] = (ragged([1], [[2]]), [[1], [[2]]])


@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_of_any_kind_come_out_row_by_row(what: str) -> None:
    """In records, in selected records, and as columns."""
    array, wanted = OUTPUTS[what]
    made = tables.plain({"o": array, "n": np.arange(len(array))})
    writer = RecordsWriter(None, tables.PLAIN_FACTS)
    assert [row["out"]["o"] for row in orjson.loads(writer.write(made))] == wanted
    flat = writer.write(made, Selection(("out.o",), (), True))
    assert [row["out.o"] for row in orjson.loads(flat)] == wanted
    listed = orjson.loads(ColumnarWriter(tables.PLAIN_FACTS).write(made))
    assert listed["out.o"] == wanted
    assert listed["out.n"] == list(range(len(array)))


@pytest.mark.parametrize(
    "array",
    [np.array([1 + 2j]), np.array(["\ud800"], object), np.array([2**70], object), np.array([{1}])],
)
def test_values_that_json_cannot_hold_fail_the_step(array: Array) -> None:
    """With the name of the output; the engine goes on."""
    made = tables.plain({"strange": array})
    for writer in (RecordsWriter(None, tables.PLAIN_FACTS), ColumnarWriter(tables.PLAIN_FACTS)):
        with pytest.raises(StepFailed, match="'strange' holds what an answer cannot"):
            writer.write(made)


def test_a_table_without_columns_has_its_rows() -> None:
    """Everything was left out, row by row."""
    assert records(tables.full(2), "dataset=in&dataset_exclude=in.tensor,in.session") == [{}, {}]
    no_outputs = Result(Batch({"x": f32([1, 2])}, 2), {})
    answered = orjson.loads(RECORDS.write(no_outputs))
    assert [row["out"] for row in answered] == [{}, {}]


# Queries

ALL = ["time", "in", "out", "anomaly", "check_failures", "out_xgb", "out_gbr"]

QUERIES: dict[str, dict[str, list[str]] | list[str]] = {
    "dataset=*": ALL,
    "dataset=time&dataset=out": ["time", "out"],
    "dataset=out,time": ["time", "out"],
    "dataset=%5B%22time%22%2C%22out%22%5D": ["time", "out"],
    'dataset=["time", "out"]': ["time", "out"],
    "dataset=*&dataset=metadata": [*ALL, "metadata"],
    "dataset=*,metadata.elapsed": {**{key: ["..."] for key in ALL}, "metadata": ["elapsed"]},
    "dataset=out.variable": {"out": ["variable"]},
    "dataset=anomaly.count": {"anomaly": ["count"]},
    "dataset=out_xgb": ["out_xgb"],
    "dataset=out_xgb.variable": {"out_xgb": ["variable"]},
    "dataset=check_failures": ["check_failures"],
    "dataset_exclude=metadata": ALL,
    "dataset_exclude=metadata,in,out,time,anomaly": ["check_failures", "out_xgb", "out_gbr"],
    "dataset_exclude=*": ["metadata"],
    "dataset=*&dataset_exclude=out.label,out_xgb": {
        **{key: ["..."] for key in ["time", "in"]},
        "out": ["variable", "_model_split"],
        **{key: ["..."] for key in ["anomaly", "check_failures", "out_gbr"]},
    },
    "dataset=time,in,out,anomaly.count&dataset_exclude=anomaly": {
        **{key: ["..."] for key in ["time", "in", "out"]},
        "anomaly": ["count"],
    },
    "dataset=anomaly&dataset_exclude=anomaly": ["anomaly"],
    "dataset=out&dataset_exclude=out.variable": {"out": ["label", "_model_split"]},
    "dataset=out.variable&dataset_exclude=*": {"out": ["variable"]},
    "dataset=": [*ALL, "metadata"],
    "other=1&dataset=time": ["time"],
}


@pytest.mark.parametrize("query", QUERIES)
def test_queries_choose_columns(query: str) -> None:
    """Groups, single columns, and `*`, which is all but metadata; the more exact word counts."""
    (row,) = records(tables.full(1), query)
    wanted = QUERIES[query]
    assert list(row) == list(wanted)
    if isinstance(wanted, dict):
        for group, names in wanted.items():
            assert names == ["..."] or list(row[group]) == names


def test_no_query_is_no_selection() -> None:
    """Nor is one that says nothing of columns."""
    for query in (b"", b"a=b", b"date=1&set=2&api_key=data", b"dataset=", b"&&"):
        assert parse_selection(query) is None


BAD_QUERIES: dict[str, tuple[str, str]] = {
    "dataset=out.variabel": (
        "UnknownDataset",
        "dataset 'out.variabel' is not in the answer; there is *, in,",
    ),
    "dataset_exclude=meta": ("UnknownDataset", "dataset_exclude 'meta' is not in the answer"),
    "dataset=time.x": ("UnknownDataset", "'time.x'"),
    "dataset=out_gbr.unknown": ("UnknownDataset", "'out_gbr.unknown'"),
    "dataset=" + "n" * 10_000: ("UnknownDataset", "nnn"),
    "dataset_separator=_": ("WrongQuery", "dataset_separator is '_'; it can be '.'"),
    "dataset_separator=..": ("WrongQuery", "'..'"),
    'dataset=["a"': ("WrongQuery", "expected names with commas between them, or a JSON list"),
    "datasets=out": ("WrongQuery", "the query has 'datasets'; did you mean 'dataset'?"),
    "Dataset=out": ("WrongQuery", "did you mean 'dataset'?"),
    "dataset-exclude=out": ("WrongQuery", "did you mean 'dataset_exclude'?"),
    "dataset_seperator=.": ("WrongQuery", "did you mean 'dataset_separator'?"),
    "dataset=[1]": ("WrongQuery", "JSON list"),
    "dataset=%ff": ("WrongQuery", "cannot be read"),
    "&".join(["dataset=time"] * 1001): ("WrongQuery", "cannot be read"),
    "dataset=" + "a," * 1001: ("WrongQuery", "more than 1000 names"),
}


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_queries_that_fit_nothing_are_refused(query: str) -> None:
    """With what there is to choose from."""
    reason, said = BAD_QUERIES[query]
    with pytest.raises(BadInput) as caught:
        records(tables.full(1), query)
    assert caught.value.reason == reason
    assert said in caught.value.message
    assert len(caught.value.message) < 2000


def test_a_challenger_that_failed_is_null_whatever_was_asked_of_it() -> None:
    """Whether it fails is not the caller's doing: it is no unknown name."""
    for query in ("dataset=out_gbr", "dataset=out_gbr.v", "dataset=out_gbr.other"):
        assert records(tables.full(2, failed=True), query) == [{"out_gbr": None}] * 2


def test_what_there_is_is_listed_with_groups_and_names() -> None:
    """In the order of the answer."""
    with pytest.raises(BadInput) as caught:
        Selection(("x",)).apply(columns(tables.full(1), tables.FACTS))
    assert caught.value.message.endswith(
        "there is *, in, out, anomaly, out_xgb, out_gbr, metadata, time, in.tensor, in.session, out.variable, "
        "out.label, out._model_split, anomaly.count, anomaly.low, anomaly.high, check_failures, out_xgb.variable, "
        "out_gbr.v, metadata.last_model, metadata.pipeline_version, metadata.elapsed, metadata.dropped, "
        "metadata.partition, metadata.variants"
    )


def test_names_with_dots_and_commas_are_chosen_by_their_whole_name() -> None:
    """A JSON list takes them apart where commas cannot."""
    made = tables.plain({"a.b": f32([1]), "c,d": f32([2])}, {"x": f32([3])})
    writer = RecordsWriter(None, tables.PLAIN_FACTS)
    for query, wanted in (
        ("dataset=out.a.b", {"out": {"a.b": 1}}),
        ('dataset=["out.c,d"]', {"out": {"c,d": 2}}),
    ):
        assert json.loads(writer.write(made, parse_selection(query.encode()))) == [wanted]
