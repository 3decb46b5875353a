"""How requests of one revision are read and answered, whatever their protocol and format.

Readers and writers are made once for each revision. Raises RequestErrors; knows no HTTP server.
"""

from dataclasses import dataclass

from midstream_engine import split
from midstream_engine.batch import Batch, Facts, Result
from midstream_engine.errors import BodyTooLarge
from midstream_engine.formats.answers import AnswerWriter, ColumnarWriter, RecordsWriter
from midstream_engine.formats.arrow_answers import ArrowWriter
from midstream_engine.formats.arrow_rows import ArrowReader
from midstream_engine.formats.encoding import decode, encode
from midstream_engine.formats.negotiation import Format, answer_format, request_format
from midstream_engine.formats.open_rows import OpenReader
from midstream_engine.formats.records import Reader
from midstream_engine.formats.selection import Selection, parse_selection
from midstream_engine.oip.asked import Asked as OipAsked
from midstream_engine.oip.asked import header_length
from midstream_engine.oip.reader import OipReader
from midstream_engine.oip.writer import OipWriter
from midstream_engine.request import Protocol, Request
from midstream_engine.schema import Field

_REMEMBERED = 100
AT_ONCE = 256 << 10
"""Bytes of a body that may be read between two other requests: by far the most take less than 2 ms."""

_LONG = 500
"""Bytes of headers that are not remembered."""


@dataclass(slots=True)
class Asked:
    """A request that has been read, and how its answer is to look."""

    codec: "Codec"
    batch: Batch
    literal: float | None
    """Stands for the random number of every split."""
    format: Format
    selection: Selection | None = None
    oip: OipAsked | None = None
    encodings: bytes = b""
    """In which the client takes the body, besides as it is."""

    @property
    def is_record(self) -> bool:
        """Whether the body is pandas-records with everything in it."""
        return (
            self.format is Format.RECORDS
            and self.selection is None
            and self.oip is None
            and not self.encodings
        )

    def write(self, result: Result) -> tuple[bytes, bytes]:
        """Complete header lines, and the body. Raises BadInput for a selection that does not fit."""
        if self.oip is not None:
            body, headers = self.codec.oip_writer.write(result, self.oip)
        else:
            body = self.codec.writers[self.format].write(result, self.selection)
            headers = self.codec.headers[self.format]
        if self.encodings:
            body, lines = encode(body, self.encodings)
            headers += lines
        return headers, body


class Codec:
    def __init__(
        self,
        inputs: tuple[Field, ...] | None,
        outputs: tuple[Field, ...] | None,
        routing: tuple[str, ...],
        facts: Facts,
        *,
        as_sent: bool = False,
    ) -> None:
        """Read and write for these fields; None is what only a request, or an answer, tells.

        routing: fields that splits ask for and no model takes. as_sent: batches have their fields in the order of the
        first row, for code that sees it.
        """
        self.reader = (
            OpenReader(routing) if inputs is None else Reader(inputs, routing, as_sent=as_sent)
        )
        names = None if outputs is None else [field.name for field in outputs]
        self.records = RecordsWriter(names, facts)
        self.writers: dict[Format, AnswerWriter] = {
            Format.RECORDS: self.records,
            Format.COLUMNAR: ColumnarWriter(facts),
            Format.ARROW_FILE: ArrowWriter(facts, file=True),
            Format.ARROW_STREAM: ArrowWriter(facts, file=False),
        }
        self._arrow = {
            Format.ARROW_FILE: ArrowReader(inputs, routing, file=True, as_sent=as_sent),
            Format.ARROW_STREAM: ArrowReader(inputs, routing, file=False, as_sent=as_sent),
        }
        self.headers = {
            format_: b"content-type: %b\r\nx-midstream-version: %b\r\n"
            % (writer.content_type, facts.version.encode())
            for format_, writer in self.writers.items()
        }
        self._ways: dict[tuple[bytes, bytes, bytes], _Way] = {}
        self.oip_writer = OipWriter(outputs, facts)
        self._oip_reader = OipReader(
            inputs, routing, self.oip_writer.knows, self.oip_writer.names, as_sent=as_sent
        )

    def read_at_once(self, request: Request, limit: int) -> "Asked | None":
        """The rows of a request; None for a body that takes long, packed or not: `read` is for another thread."""
        if len(request.body) > AT_ONCE:
            return None
        if not request.headers.content_encoding:
            return self._read(request, request.body, limit)
        try:
            body = decode(request.body, request.headers.content_encoding, min(limit, AT_ONCE))
        except BodyTooLarge:
            if limit <= AT_ONCE:
                raise
            return None
        return self._read(request, body, limit)

    def read(self, request: Request, limit: int) -> Asked:
        """The rows of a request. limit: bytes that a compressed body may have when it is unpacked."""
        body = request.body
        if request.headers.content_encoding:
            body = decode(body, request.headers.content_encoding, limit)
        return self._read(request, body, limit)

    def _read(self, request: Request, body: bytes, limit: int) -> Asked:
        headers = request.headers
        literal = split.literal_key(headers.split_key) if headers.split_key else None
        if request.target.protocol is Protocol.OIP:
            batch, oip = self._oip_reader.read(body, header_length(headers.json_length))
            return Asked(
                self, batch, literal, Format.RECORDS, oip=oip, encodings=headers.accept_encoding
            )
        said = (headers.content_type, headers.accept, request.target.query)
        way = self._ways.get(said) or self._find_way(*said)
        batch = self.reader.read(body) if way.arrow is None else way.arrow.read(body, limit)
        return Asked(
            self, batch, literal, way.answer, way.selection, encodings=headers.accept_encoding
        )

    def _find_way(self, content_type: bytes, accept: bytes, query: bytes) -> "_Way":
        way = _Way(
            self._arrow.get(request_format(content_type)),
            answer_format(accept),
            parse_selection(query),
        )
        if len(self._ways) < _REMEMBERED and len(content_type) + len(accept) + len(query) < _LONG:
            self._ways[content_type, accept, query] = way
        return way


@dataclass(frozen=True, slots=True)
class _Way:
    """What a request's headers and query come to."""

    arrow: ArrowReader | None
    """None: the body is JSON."""
    answer: Format
    selection: Selection | None
