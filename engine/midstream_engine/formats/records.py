"""Requests in JSON: pandas-records `[{"tensor": [4.0, 2.5]}]`, or columns `{"tensor": [[4.0, 2.5]]}`.

Reading is strict: a request that does not fit is refused with the field, the row and what would be right. The usual
request takes a fast way; only when that way meets something unexpected is the body looked at value by value.
"""

import re
from collections.abc import Sequence
from typing import Any

from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput
from midstream_engine.formats.columns import check_names, check_rows, column, routing
from midstream_engine.formats.jsontext import dumps, parse_body
from midstream_engine.formats.values import SHOWN, kind_said
from midstream_engine.schema import Array, Field, list_fields

_ROW = re.compile(rb"\{[^{}]*\}")

_ABSENT = object()


class Reader:
    """Turns request bodies into batches. Made once for each revision."""

    def __init__(
        self, fields: Sequence[Field], keys: Sequence[str] = (), *, as_sent: bool = False
    ) -> None:
        """Read for these inputs.

        keys: names of fields that only splits look at; a row may leave them out. as_sent: give the fields in the order
        of the first row, for code that sees it; otherwise as in `fields`.
        """
        self.fields = tuple(fields)
        self._as_sent = as_sent and len(self.fields) > 1
        self._names = frozenset(field.name for field in fields)
        self.keys = tuple(dict.fromkeys(key for key in keys if key not in self._names))
        self._texts = tuple(field for field in self.fields if field.dtype == "string")
        self._numbers = tuple(field for field in self.fields if field.dtype != "string")
        self._only = len(self.fields) == 1 and not self.keys
        self._special = bool(self.keys or self._texts or self._as_sent)
        self._raw_echo = not any(set(name) & set('{}"\\') for name in (*self._names, *self.keys))

    def read(self, body: bytes) -> Batch:
        """The rows of a body. Raises BadInput.

        Each array has the field's dtype and the shape (rows, *field.shape). The echo is each row's own text; None
        when the body holds columns.
        """
        rows, clean = parse_body(body)
        if type(rows) is not list:
            if type(rows) is dict and rows:
                return self._read_columns(rows, body, clean)
            raise BadInput(
                f"the body is {kind_said(rows)}; send a list of rows: {self._example()}",
                reason="NotRecords",
            )
        count = len(rows)
        if count == 0:
            raise BadInput(
                f"the body has no rows; send at least one: {self._example()}", reason="NoRows"
            )
        check_rows(count)
        if self._special:
            return self._read_special(rows, body, clean)
        # Exactly the quotes that the names need: no strings, no repeated names. So braces only part rows.
        exact = clean and body.count(b'"') == 2 * count * len(self._names)
        # No `true` and no `false` either: nothing but numbers, null and brackets. Then numpy may convert at once;
        # otherwise it would silently take "1" and true for 1.0.
        plain = exact and not _has_booleans(body)
        arrays: dict[str, Array] = {}
        for field in self.fields:
            name = field.name
            try:
                values = [row[name] for row in rows]
            except (KeyError, TypeError):
                self._refuse_names(rows)
                raise
            arrays[name] = column(field, values, plain)
        width = len(self._names)
        if self._only and count == 1:
            if len(rows[0]) != 1:
                self._refuse_names(rows)
        elif any(len(row) != width for row in rows):
            self._refuse_names(rows)
        return Batch(arrays, count, echo(body, rows, exact, raw=self._raw_echo))

    def _read_special(self, rows: list[Any], body: bytes, clean: bool) -> Batch:
        """The same where rows may hold strings, as values or as keys, and where their order counts."""
        count = len(rows)
        arrays: dict[str, Array] = {}
        keys: dict[str, list[Any]] = {}
        entries = count * len(self._names)
        strings = 0
        try:
            for name in self.keys:
                values = [row.get(name, _ABSENT) for row in rows]
                absent = values.count(_ABSENT)
                if absent:
                    values = [None if value is _ABSENT else value for value in values]
                entries += count - absent
                keys[name] = values
            columns = {field.name: [row[field.name] for row in rows] for field in self.fields}
        except (KeyError, TypeError, AttributeError):
            self._refuse_names(rows)
            raise
        # No row misses a field, so each has at least as many entries as were counted.
        if sum(map(len, rows)) != entries:
            self._refuse_names(rows)
        for name, values in keys.items():
            keys[name] = routing(name, values)
            strings += sum(type(value) is str for value in values)
        for field in self._texts:
            arrays[field.name] = column(field, columns[field.name], plain=False)
            strings += arrays[field.name].size
        # As above: the quotes of names and of strings that were found, so no others and no name twice.
        exact = clean and body.count(b'"') == 2 * (entries + strings)
        plain = exact and not _has_booleans(body)
        for field in self._numbers:
            arrays[field.name] = column(field, columns[field.name], plain)
        if self._as_sent:
            arrays = {name: arrays[name] for name in rows[0] if name in arrays}
        elif self._texts:
            arrays = {field.name: arrays[field.name] for field in self.fields}
        raw = self._raw_echo and (not strings or body.count(b"{") == count == body.count(b"}"))
        return Batch(arrays, count, echo(body, rows, exact, raw=raw), keys)

    def _read_columns(self, table: dict[str, Any], body: bytes, clean: bool) -> Batch:
        """Columns by name, each a list with one value for each row."""
        check_names(self.fields, self.keys, table, "the body")
        count = check_columns(table)
        plain = clean and body.count(b'"') == 2 * len(table) and not _has_booleans(body)
        arrays = {field.name: column(field, table[field.name], plain) for field in self.fields}
        if self._as_sent:
            arrays = {name: arrays[name] for name in table if name in arrays}
        keys = {key: routing(key, table.get(key, [None] * count)) for key in self.keys}
        return Batch(arrays, count, None, keys)

    def _refuse_names(self, rows: list[Any]) -> None:
        """Raise BadInput for the first row that has not exactly the pipeline's fields."""
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise BadInput(
                    f"row {number} is {kind_said(row)}; a row is an object: {self._example()}",
                    reason="NotRecords",
                    row=number,
                )
            check_names(self.fields, self.keys, row, f"row {number}", number)

    def _example(self) -> str:
        field = self.fields[0]
        return f'[{{"{field.name}": …}}] with the fields {list_fields(self.fields)}'


def check_columns(table: dict[str, Any]) -> int:
    """The number of rows of columns by name. Raises BadInput unless all are lists of one length."""
    first = ""
    count = -1
    for name, values in table.items():
        if type(values) is not list:
            raise BadInput(
                f"field {name[:SHOWN]!r}: expected a list with one value for each row, got {kind_said(values)}; "
                "a single row is sent in a list, too: [{…}]",
                reason="NotRecords",
                field=name[:SHOWN],
            )
        if count < 0:
            first, count = name, len(values)
        elif len(values) != count:
            raise BadInput(
                f"field {name[:SHOWN]!r} has {len(values)} values, field {first[:SHOWN]!r} has {count}; "
                "every field needs one for each row",
                reason="RaggedRows",
                field=name[:SHOWN],
            )
    if count == 0:
        raise BadInput("the body has no rows; send at least one", reason="NoRows")
    check_rows(count)
    return count


def echo(body: bytes, rows: list[Any], exact: bool, *, raw: bool) -> Sequence[bytes]:
    """Each row as it was sent, cut out of the body where that is certain to be right.

    exact: no row has a name twice. raw: braces in the body do nothing but part rows, when it is exact.
    """
    if exact:
        text = body.strip()[1:-1].strip()
        if len(rows) == 1:
            return (text,)
        if raw:
            end = text.find(b"}")
            between = b"},{" if text[end : end + 3] == b"},{" else b"}, {"
            parts = text[1:-1].split(between)
            if len(parts) == len(rows):
                return [b"{%b}" % part for part in parts]
            return _ROW.findall(text)
    return [dumps(row) for row in rows]


def _has_booleans(body: bytes) -> bool:
    # Looking for one letter is a hundred times faster than looking for a word, and mostly enough.
    return (b"u" in body or b"l" in body) and (b"true" in body or b"false" in body)
