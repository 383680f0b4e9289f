"""Reading one landed file: its bytes against its manifest, its header against the contract, its lines as text.

Nothing is judged here beyond the file itself. What is wrong with the file as a whole is told in words in `problems`;
any problem blocks the file. Every value stays the text that was delivered; an empty field is null.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.csv as pa_csv

from contrail.contracts import Contract
from contrail.landing import Delivery

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LARGEST_BLOCK = 2**31 - 1  # of Arrow's reader; a file is one block, so that a quoted line end is never cut
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class MalformedRow:
    """A line that does not have as many fields as the header; `row` counts data rows from 1."""

    row: int
    text: str
    expected: int
    found: int


@dataclass(frozen=True)
class LandedFile:
    """A file as it lies in the landing zone.

    Attributes:
        content: the bytes as they lie there; empty when there are none.
        texts: the well-formed rows, all columns VARCHAR, under the header's names; None when the file is unreadable.
        row_numbers: the data row (from 1) of each row of `texts`.
        malformed: the other rows.
        problems: what is wrong with the file as a whole, in words.
        is_verified: whether the bytes are those of the manifest.
    """

    delivery: Delivery
    content: bytes
    texts: pa.Table | None = None
    row_numbers: pa.Array | None = None
    malformed: tuple[MalformedRow, ...] = ()
    problems: tuple[str, ...] = field(default=())
    is_verified: bool = False

    @property
    def rows(self) -> int:
        """The rows that landed: those found, or the manifest's when nothing can be read."""
        return self.delivery.rows if self.texts is None else self.texts.num_rows + len(self.malformed)

    @property
    def fits(self) -> bool:
        """Whether its rows can be judged by the contract: every column is there."""
        return self.texts is not None and not self.problems


def read_landed_file(delivery: Delivery, contract: Contract) -> LandedFile:
    """Read one delivery. Never raises for what is wrong with the file: that is in its `problems`."""
    try:
        content = delivery.path.read_bytes()
    except FileNotFoundError:
        return LandedFile(
            delivery, b"", problems=("the manifest is there and the file is not: deliver it again",)
        )
    if not content:
        return LandedFile(delivery, b"", problems=("the file has 0 bytes: deliver it again",))
    problems: list[str] = []
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != delivery.sha256:
        problems.append(
            f"sha256 is {sha256} and the manifest says {delivery.sha256}: "
            "the file was changed or damaged after its manifest was made"
        )
    verified = not problems
    try:
        data = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        how = "truncated gzip" if isinstance(error, EOFError) else "not gzip, or damaged gzip"
        problems.append(f"{how} ({error}): deliver the file again")
        return LandedFile(delivery, content, problems=tuple(problems), is_verified=verified)
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(
            f"not UTF-8: byte {error.start} (line {line}) is 0x{data[error.start]:02x}; write it as UTF-8"
        )
        return LandedFile(delivery, content, problems=tuple(problems), is_verified=verified)
    header, body = _split_header(data)
    if not header:
        problems.append("no header line: the first line must name the columns")
        return LandedFile(delivery, content, problems=tuple(problems), is_verified=verified)
    problems.extend(_header_problems(header, contract.column_names))
    try:
        texts, numbers, malformed = _parse(header, body)
    except pa.ArrowInvalid as error:
        problems.append(f"not CSV: {error}")
        return LandedFile(delivery, content, problems=tuple(problems), is_verified=verified)
    found = texts.num_rows + len(malformed)
    if found != delivery.rows:
        few = "fewer" if found < delivery.rows else "more"
        problems.append(f"{few} rows than the manifest says: {found} instead of {delivery.rows}")
    return LandedFile(delivery, content, texts, numbers, malformed, tuple(problems), verified)


def _split_header(data: bytes) -> tuple[list[str], bytes]:
    end = _LINE_END.search(data)
    line, body = (data, b"") if end is None else (data[: end.start()], data[end.end() :])
    names = next(csv.reader([line.decode("utf-8")]), [])
    return [name.strip() for name in names], body


def _header_problems(header: Sequence[str], columns: Sequence[str]) -> list[str]:
    """How the header differs from the contract; a missing and an extra column of like names are one renamed column."""
    missing = [name for name in columns if name not in header]
    extra = [name for name in dict.fromkeys(header) if name not in columns]
    problems: list[str] = []
    for name in list(missing):
        near = difflib.get_close_matches(name, extra, n=1, cutoff=0.6)
        if near or (len(missing) == len(extra) == 1 and header.index(extra[0]) == list(columns).index(name)):
            new = near[0] if near else extra[0]
            problems.append(
                f"column {name!r} is missing and {new!r} is not in the contract: renamed? call it {name!r}"
            )
            missing.remove(name)
            extra.remove(new)
    problems += [f"column {name!r} is missing: the contract requires it in every file" for name in missing]
    problems += [
        f"column {name!r} is not in the contract: leave it out, or add it to the contract" for name in extra
    ]
    problems += [
        f"column {name!r} stands twice in the header"
        for name in sorted(set(header))
        if header.count(name) > 1
    ]
    return problems


def _parse(header: Sequence[str], body: bytes) -> tuple[pa.Table, pa.Array, tuple[MalformedRow, ...]]:
    """The rows as text, their numbers, and the lines with another number of fields."""
    # A name that stands twice would hide a column, so the later one gets its place as its name.
    names = [name if name not in header[:i] else f"{name}#{i + 1}" for i, name in enumerate(header)]
    empty = pa.table({name: pa.array([], pa.string()) for name in names})
    if not body.strip(b"\r\n"):
        return empty, pa.array([], pa.int64()), ()
    bad: list[pa_csv.InvalidRow] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    texts = pa_csv.read_csv(
        io.BytesIO(body),
        # One thread: only then do the lines that are passed over know their number.
        read_options=pa_csv.ReadOptions(
            column_names=names, use_threads=False, block_size=min(max(len(body) + 1, 1 << 16), _LARGEST_BLOCK)
        ),
        parse_options=pa_csv.ParseOptions(
            newlines_in_values=b'"' in body, invalid_row_handler=skip, ignore_empty_lines=len(names) > 1
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""]
        ),
    )
    malformed = tuple(
        MalformedRow(row.number, row.text, row.expected_columns, row.actual_columns) for row in bad
    )
    passed_over = {row.row for row in malformed}
    total = texts.num_rows + len(malformed)
    numbers = [n for n in range(1, total + 1) if n not in passed_over] if passed_over else range(1, total + 1)
    return texts, pa.array(numbers, pa.int64()), malformed
