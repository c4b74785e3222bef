"""A field of a request, as one row: parsing, Triton's configuration, the wire reference, the client's options and its
command line all come from it.

A row is declared with the dataclass attribute that holds its value: `steps: int = given(Whole("STEPS", ...))`.
values.py has the rows of all families, guidance.py those of the rules' strengths, each family's folder its own.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_server.errors import InvalidArgument, shown

MAX_TEXT_BYTES = 8192
MAX_VALUES = 1024  # in any input; some allow fewer

Dtype = Literal["BYTES", "BOOL", "FP32", "INT32", "INT64"]


@dataclass(frozen=True)
class Option:
    """How the client offers a field.

    `about` documents it in the client's `Options`, `flag` on the command line; where one is empty, the field is no
    option there. `kind` says how the client encodes it, where that isn't the field's own kind.
    """

    about: str = ""
    flag: str = ""
    name: str = ""
    kind: str = ""
    metavar: str = ""
    flags: str = ""


@dataclass(frozen=True)
class Field(ABC):
    """An input of a model. `help` is its text in the wire reference, to which bounds and default are appended.

    `default` is the value if it isn't sent; None where there is none, or where a bundle has its own. `usual` says in
    the reference which that is. Triton itself refuses a request without a `required` field. `needed` makes a field
    required by the families that know it, and says what to do where it is missing or blank.
    """

    name: str
    help: str
    default: Any = None
    usual: str = ""
    option: Option | None = None
    required: bool = False
    needed: str = ""

    dtype: ClassVar[Dtype]
    kind: ClassVar[str]
    many: ClassVar[bool] = False
    takes: ClassVar[str]  # which Python value it takes, e.g. `a number`

    def said(self, value: Any) -> Any:
        """Check a value given in Python. Raises InvalidArgument, also for a wrong type."""
        if not self.fits(value):
            raise InvalidArgument(self.name, f"{shown(repr(value))} is {type(value).__name__}", f"pass {self.takes}")
        return self.checked(value)

    @abstractmethod
    def fits(self, value: Any) -> bool:
        """Whether the value's type is one that `checked` takes."""

    def read(self, tensor: NDArray[Any]) -> Any:
        """The checked value in a tensor. Raises InvalidArgument, also for a wrong dtype, which Triton would refuse."""
        if not self.many and tensor.size != 1:
            raise InvalidArgument(self.name, f"holds {tensor.size} values", "pass exactly one, shape [1]")
        if tensor.size > MAX_VALUES:  # checked before the values are read one by one
            raise InvalidArgument(self.name, f"holds {tensor.size} values", f"pass at most {MAX_VALUES}")
        values = tensor.reshape(-1).tolist()
        return self.said(self.taken(values if self.many else values[0]))

    def taken(self, value: Any) -> Any:
        """NumPy's value (or list of values) as Python's. Raises InvalidArgument."""
        return value

    @abstractmethod
    def checked(self, value: Any) -> Any:
        """The value, if it is allowed. Raises InvalidArgument."""

    @property
    def bounds(self) -> str:
        """For people, e.g. `1 to 200`."""
        return ""


@dataclass(frozen=True)
class Text(Field):
    dtype: ClassVar[Dtype] = "BYTES"
    kind: ClassVar[str] = "text"
    takes: ClassVar[str] = "a text"

    def fits(self, value: Any) -> bool:
        return _is_text(value)

    def taken(self, value: bytes | str) -> str:
        return decoded(self.name, value)

    def checked(self, value: str) -> str:
        if self.needed and not value.strip():
            raise InvalidArgument(self.name, "is missing or blank", self.needed)
        return value


@dataclass(frozen=True)
class Choice(Text):
    """One of `choices`."""

    choices: tuple[str, ...] = ()

    def checked(self, value: str) -> str:
        if value not in self.choices:
            raise InvalidArgument(self.name, f"{shown(value)} is unknown", f"pass one of {', '.join(self.choices)}")
        return value

    @property
    def bounds(self) -> str:
        return ", ".join(self.choices)


@dataclass(frozen=True)
class Texts(Field):
    """At most `most` texts; `problem` and `fix` are the error for more, {n} in them being the count."""

    most: int = MAX_VALUES
    problem: str = "holds {n} values"
    fix: str = f"pass at most {MAX_VALUES}"
    dtype: ClassVar[Dtype] = "BYTES"
    kind: ClassVar[str] = "texts"
    many: ClassVar[bool] = True
    takes: ClassVar[str] = "texts in a list or tuple"

    def fits(self, value: Any) -> bool:
        return isinstance(value, list | tuple) and all(map(_is_text, value))

    def taken(self, value: list[bytes | str]) -> tuple[str, ...]:
        return tuple(decoded(self.name, one) for one in value)

    def checked(self, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > self.most:
            raise InvalidArgument(self.name, self.problem.format(n=len(value)), self.fix)
        return tuple(value)


@dataclass(frozen=True)
class Number(Field):
    """A finite number from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf
    dtype: ClassVar[Dtype] = "FP32"
    kind: ClassVar[str] = "number"
    takes: ClassVar[str] = "a number"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool)

    def checked(self, value: float) -> float:
        if not (self.low <= value <= self.high and math.isfinite(value)):
            fix = f"pass a finite number from {self.low:g} to {self.high:g}"
            raise InvalidArgument(self.name, f"{value} is out of range", fix)
        return float(value)

    @property
    def bounds(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Numbers(Number):
    many: ClassVar[bool] = True
    kind: ClassVar[str] = "numbers"
    takes: ClassVar[str] = "numbers in a list or tuple"

    def fits(self, value: Any) -> bool:
        return isinstance(value, list | tuple) and all(Number.fits(self, one) for one in value)

    def checked(self, value: Any) -> Any:
        return tuple(Number.checked(self, one) for one in value)


@dataclass(frozen=True)
class Whole(Field):
    """A whole number from `low` to `high`."""

    low: int = 0
    high: int = 2**31 - 1
    dtype: ClassVar[Dtype] = "INT32"
    kind: ClassVar[str] = "number"
    takes: ClassVar[str] = "a whole number"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool)

    def checked(self, value: int) -> int:
        if not self.low <= value <= self.high:
            raise InvalidArgument(self.name, f"{value} is out of range", f"pass {self.low} to {self.high}")
        return int(value)

    @property
    def bounds(self) -> str:
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Long(Whole):
    high: int = 2**63 - 1
    dtype: ClassVar[Dtype] = "INT64"

    @property
    def bounds(self) -> str:
        return f"{self.low} to 2^{self.high.bit_length()}-1"


@dataclass(frozen=True)
class Flag(Field):
    dtype: ClassVar[Dtype] = "BOOL"
    kind: ClassVar[str] = "flag"
    takes: ClassVar[str] = "True or False"

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool | np.bool_)

    def checked(self, value: bool) -> bool:
        return bool(value)


@dataclass(frozen=True)
class File(Field):
    """An encoded picture, as bytes. `check` looks only at their number; nothing is decoded yet."""

    check: Callable[[bytes, str], None] = lambda data, field: None
    dtype: ClassVar[Dtype] = "BYTES"
    kind: ClassVar[str] = "picture"
    takes: ClassVar[str] = "an encoded picture, as bytes"

    def fits(self, value: Any) -> bool:
        return isinstance(value, bytes)

    def taken(self, value: bytes | str) -> bytes:
        return value.encode() if isinstance(value, str) else value

    def checked(self, value: bytes) -> bytes:
        self.check(value, self.name)
        return value


@dataclass(frozen=True)
class Files(File):
    """At most `most` encoded pictures of at most `most_bytes` together."""

    most: int = MAX_VALUES
    most_bytes: float = math.inf
    many: ClassVar[bool] = True
    kind: ClassVar[str] = "pictures"
    takes: ClassVar[str] = "encoded pictures, as bytes, in a list or tuple"

    def fits(self, value: Any) -> bool:
        return isinstance(value, list | tuple) and all(File.fits(self, one) for one in value)

    def taken(self, value: Any) -> Any:
        return tuple(File.taken(self, one) for one in value)

    def checked(self, value: Any) -> Any:
        if len(value) > self.most:
            raise InvalidArgument(self.name, f"{len(value)} files", f"pass at most {self.most}")
        size = sum(map(len, value))
        if size > self.most_bytes:
            fix = f"pass at most {self.most_bytes} ({int(self.most_bytes) >> 20} MiB)"
            raise InvalidArgument(self.name, f"{size} bytes in {len(value)} files is too large", fix)
        return tuple(File.checked(self, one) for one in value)


def given(field: Field) -> Any:
    """A dataclass attribute that holds the value of `field`."""
    return dataclasses.field(metadata={"field": field})


@cache
def rows(group: type[Any]) -> Mapping[str, Field]:
    """A dataclass's fields by attribute, without attributes that have none."""
    found = {one.name: one.metadata.get("field") for one in dataclasses.fields(group)}
    return {name: field for name, field in found.items() if field is not None}


def _is_text(value: Any) -> bool:
    """Whether the value is a string that UTF-8 can encode; lone surrogates can't be."""
    return isinstance(value, str) and value == value.encode(errors="replace").decode()


def decoded(name: str, value: bytes | str) -> str:
    """A text off the wire. Raises InvalidArgument where it is too long or not UTF-8."""
    if isinstance(value, str):
        return value
    if len(value) > MAX_TEXT_BYTES:
        raise InvalidArgument(name, f"{len(value)} bytes is too long", f"pass at most {MAX_TEXT_BYTES}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(name, f"byte {error.start} is not UTF-8", "encode text as UTF-8") from None
