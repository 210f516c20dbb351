"""How a layout is declared: once, as data, read by Python, by C and by the documentation.

A layout is a fixed number of bytes cut into named fields without gaps. tools/gen_layout.py writes the same table as
a packed C struct with a static assert on its size and on each offset, so the two languages cannot drift apart.

Field types, as text:

- ``u8 u16 u32 u64 i8 i16 i32 i64``: integers in the layout's byte order. Big-endian layouts have ``u24`` too
  and no signed types.
- ``u32[4]``: an array of any of these.
- ``bytes16``: that many bytes as they are.
- ``reserved8``: that many bytes that are written as zero and refused when they are read as anything else,
  so that a later version may give them a meaning without an old reader mistaking it.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, Self, TypeAlias

from sparrow.base.errors import DamagedData, LocalProtocolError, SparrowError

Value: TypeAlias = int | bytes | tuple[int, ...]
Order: TypeAlias = Literal["le", "be"]
Kind: TypeAlias = Literal["integer", "bytes", "reserved"]

INTEGER_TYPE = re.compile(r"([ui])(8|16|24|32|64)(?:\[([1-9]\d*)\])?")
RAW_TYPE = re.compile(r"(bytes|reserved)([1-9]\d*)")
NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Words that are fine as a name in Python but not in C.
C_WORDS = frozenset(
    "auto case char const default do double enum extern float goto inline int long register restrict short signed"
    " sizeof static struct switch typedef union unsigned void volatile".split()
)


@dataclass(frozen=True, slots=True)
class Field:
    """One named run of bytes.

    Attributes:
        name: lower case, valid in Python and in C.
        type: see the module's text.
        doc: what it means, with its unit.
    """

    name: str
    type: str
    doc: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or keyword.iskeyword(self.name) or self.name in C_WORDS:
            raise ValueError(f"field name {self.name!r} does not work in both Python and C")
        if not INTEGER_TYPE.fullmatch(self.type) and not RAW_TYPE.fullmatch(self.type):
            raise ValueError(f"field {self.name}: unknown type {self.type!r}")
        if not self.doc:
            raise ValueError(f"field {self.name}: say what it means")

    @property
    def kind(self) -> Kind:
        """Which of the three sorts of field this is."""
        return _parse(self.type).kind

    @property
    def signed(self) -> bool:
        return _parse(self.type).signed

    @property
    def count(self) -> int | None:
        """Number of array elements; None for what is no array."""
        return _parse(self.type).elements

    @property
    def item_size(self) -> int:
        """Bytes of one element."""
        return _parse(self.type).item_size

    @property
    def size(self) -> int:
        """Bytes of the whole field."""
        return _parse(self.type).size


class _Type(NamedTuple):
    """What the text of a field's type says."""

    kind: Kind
    signed: bool
    elements: int | None
    item_size: int
    size: int


@cache
def _parse(text: str) -> _Type:
    """There are a few dozen such texts, and each is asked for whenever a field is read or written."""
    raw = RAW_TYPE.fullmatch(text)
    if raw is not None:
        size = int(raw[2])
        return _Type("bytes" if raw[1] == "bytes" else "reserved", False, None, size, size)
    match = INTEGER_TYPE.fullmatch(text)
    assert match is not None
    count = None if match[3] is None else int(match[3])
    item_size = int(match[2]) // 8
    return _Type("integer", match[1] == "i", count, item_size, item_size * (count or 1))


class Record(Mapping[str, Value]):
    """The fields of one unpacked layout, by name; reserved fields are left out.

    ``number``, ``numbers`` and ``blob`` give a field in its own type.
    """

    __slots__ = ("_values", "layout")

    def __init__(self, layout: Layout, values: dict[str, Value]) -> None:
        self.layout = layout
        self._values = values

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Record({self.layout.name}, {self._values})"

    def number(self, name: str) -> int:
        """A field that is one integer."""
        value = self._values[name]
        assert isinstance(value, int), f"{self.layout.name}.{name} is no single integer"
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        """A field that is an array of integers."""
        value = self._values[name]
        assert isinstance(value, tuple), f"{self.layout.name}.{name} is no array"
        return value

    def blob(self, name: str) -> bytes:
        """A field that is bytes."""
        value = self._values[name]
        assert isinstance(value, bytes), f"{self.layout.name}.{name} is not bytes"
        return value


@dataclass(frozen=True, slots=True)
class Layout:
    """A fixed-size layout; checked when it is declared.

    Attributes:
        name: lower case; the C struct is ``struct sp_<name>``.
        order: byte order of its integers, "le" or "be".
        size: bytes; stated as well as summed, so that a slip in the table fails at import.
        fields: in order of their offsets, without gaps.
        doc: what it is and when it is valid.
    """

    name: str
    order: Order
    size: int
    fields: tuple[Field, ...]
    doc: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"layout name {self.name!r} does not work in C")
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError(f"layout {self.name}: two fields have one name")
        total = sum(field.size for field in self.fields)
        if total != self.size:
            raise ValueError(
                f"layout {self.name}: its fields add up to {total} bytes, it says {self.size}"
            )
        for field in self.fields:
            if self.order == "be" and field.signed:
                raise ValueError(
                    f"layout {self.name}.{field.name}: big-endian layouts have no signed types"
                )
            if self.order == "le" and field.type.startswith("u24"):
                raise ValueError(
                    f"layout {self.name}.{field.name}: only big-endian layouts have 24-bit fields"
                )

    def field(self, name: str) -> Field:
        """The declaration of one field."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"{self.name} has no field {name}")

    def offsets(self) -> Iterator[tuple[int, Field]]:
        """Every field with its offset in bytes."""
        offset = 0
        for field in self.fields:
            yield offset, field
            offset += field.size

    def offset_of(self, name: str) -> int:
        """Offset of a field in bytes."""
        for offset, field in self.offsets():
            if field.name == name:
                return offset
        raise KeyError(f"{self.name} has no field {name}")

    def pack(self, values: Mapping[str, Value]) -> bytes:
        """The layout's bytes with these values; reserved fields are zero and must not be given.

        Raises:
            LocalProtocolError: a field is missing, unknown, out of range or of the wrong length.
        """
        wanted = {field.name for field in self.fields if field.kind != "reserved"}
        if values.keys() != wanted:
            odd = ", ".join(sorted(values.keys() ^ wanted))
            raise LocalProtocolError(f"{self.name}: missing or unknown fields: {odd}.")
        parts = []
        for field in self.fields:
            parts.append(
                bytes(field.size)
                if field.kind == "reserved"
                else self._encode(field, values[field.name])
            )
        packed = b"".join(parts)
        assert len(packed) == self.size
        return packed

    def unpack(
        self,
        buffer: bytes | bytearray | memoryview,
        *,
        offset: int = 0,
        error: type[SparrowError] = DamagedData,
    ) -> Record:
        """Read the fields at an offset of a buffer; what follows them is not looked at.

        Args:
            buffer: at least ``offset + size`` bytes.
            offset: where the layout starts, in bytes.
            error: what to raise for bytes that do not fit: ``DamagedData`` for a disk,
                ``RemoteProtocolError`` for a peer.
        Raises:
            SparrowError: of the given class: too short, or a reserved byte is not zero.
        """
        view = memoryview(buffer).cast("B")[offset : offset + self.size]
        if len(view) < self.size:
            raise error(f"{self.name} needs {self.size} bytes, there are {len(view)}.")
        values: dict[str, Value] = {}
        for start, field in self.offsets():
            raw = view[start : start + field.size]
            if field.kind == "reserved":
                if any(raw):
                    raise error(
                        f"{self.name}.{field.name} at byte {start} is reserved and not zero."
                    )
            else:
                values[field.name] = self._decode(field, raw)
        return Record(self, values)

    def _encode(self, field: Field, value: Value) -> bytes:
        if field.kind == "bytes":
            if not isinstance(value, bytes) or len(value) != field.size:
                raise LocalProtocolError(
                    f"{self.name}.{field.name}: needs exactly {field.size} bytes."
                )
            return value
        items = value if field.count is not None else (value,)
        if not isinstance(items, tuple) or len(items) != (field.count or 1):
            raise LocalProtocolError(f"{self.name}.{field.name}: needs {field.count} integers.")
        order: Literal["little", "big"] = "little" if self.order == "le" else "big"
        try:
            return b"".join(
                _integer(item).to_bytes(field.item_size, order, signed=field.signed)
                for item in items
            )
        except (OverflowError, TypeError):
            raise LocalProtocolError(
                f"{self.name}.{field.name}: {value!r} does not fit {field.type}."
            ) from None

    def _decode(self, field: Field, raw: memoryview) -> Value:
        if field.kind == "bytes":
            return bytes(raw)
        order: Literal["little", "big"] = "little" if self.order == "le" else "big"
        step = field.item_size
        items = tuple(
            int.from_bytes(raw[at : at + step], order, signed=field.signed)
            for at in range(0, field.size, step)
        )
        return items[0] if field.count is None else items


class Constant(int):
    """A number the native core must know too, such as a magic; C sees ``SP_<NAME>``, Python an int."""

    name: str
    doc: str

    def __new__(cls, name: str, value: int, doc: str) -> Self:
        if not NAME.fullmatch(name):
            raise ValueError(f"constant name {name!r} does not work in C")
        if not 0 <= value < 1 << 64:
            raise ValueError(f"constant {name}: {value} does not fit 64 bits")
        constant = super().__new__(cls, value)
        constant.name = name
        constant.doc = doc
        return constant


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value
