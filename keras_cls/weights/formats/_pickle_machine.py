"""Reads pickles of plain values and calls nothing that they name.

Python's own unpickler can be kept from calling foreign code, but not from taking memory: where a
memo lies and how deep a tuple is hashed are the file's choice. So :mod:`pickletools` splits the
pickle into instructions, and this machine knows those that a dictionary of tensors needs. It never
recurses, and neither its memory nor its time grows faster than the pickle.
"""

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, cast

from keras_cls.weights.formats import FormatError

_MOST_INSTRUCTIONS = 1 << 20  # a thousand tensors with their averages and an optimizer: 200,000
_LONGEST_STRING = 1 << 20


@dataclass(frozen=True)
class Call:
    """What a name in the file stands for where the file may call it: a function of ours."""

    function: Callable[..., object]


class Buildable(ABC):
    """An object of ours that the file may give a state."""

    @abstractmethod
    def build(self, state: object) -> None:
        """Take the state."""


class Opaque:
    """A value that nobody here asks for: whatever the file puts into it is dropped."""


def load(
    stream: IO[bytes], known: Mapping[str, object], persistent: Callable[[object], object]
) -> object:
    """The object of one pickle; the stream stands behind it afterwards.

    Args:
        stream: stands at the pickle's beginning.
        known: what the names that the file may use stand for; :class:`Call` where it may call it.
        persistent: gives the object of a persistent id.

    Raises:
        FormatError: the file uses another name, or an instruction that plain values do not need.
    """
    machine = _Machine(known, persistent)
    # pickletools needs read and readline alone.
    instructions = pickletools.genops(cast(IO[bytes], _Bounded(stream)))
    for count, (opcode, argument, _) in enumerate(instructions):
        if count > _MOST_INSTRUCTIONS:
            raise FormatError(f"its pickle has more than {_MOST_INSTRUCTIONS} instructions")
        machine.do(opcode.name, argument)
    return machine.stack.pop()


def put(target: object, key: object, value: object) -> None:
    """``target[key] = value``, for keys that are quick to hash."""
    if isinstance(target, Opaque):
        return
    if type(target) is not dict:
        raise FormatError(f"its pickle sets an item of a {type(target).__name__}")
    if not isinstance(key, str | int | float | None):
        raise FormatError(f"it has a dictionary with a {type(key).__name__} as a key")
    target[key] = value


class _Machine:
    """A stack, the stacks below the marks, and the memo."""

    def __init__(self, known: Mapping[str, object], persistent: Callable[[object], object]) -> None:
        self.stack: list = []
        self._below: list[list] = []
        self._memo: dict[int, object] = {}
        self._known = known
        self._persistent = persistent

    def do(self, name: str, argument: object) -> None:
        """One instruction, by pickletools' name of it."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(self._popped(int(name[-1])))
            case "MARK":
                self._below.append(stack)
                self.stack = []
            case "TUPLE":
                items = self._since_mark()
                self.stack.append(tuple(items))
            case "APPEND":
                (item,) = self._popped(1)
                self._extend([item])
            case "APPENDS":
                self._extend(self._since_mark())
            case "SETITEM":
                key, value = self._popped(2)
                put(stack[-1], key, value)
            case "SETITEMS":
                items = self._since_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    put(self.stack[-1], key, value)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[cast(int, argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[cast(int, argument)])
            case "GLOBAL":
                stack.append(self._named(*cast(str, argument).split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self._named(*self._popped(2)))
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                stack.append(_called(*self._popped(2)))
            case "BUILD":
                (state,) = self._popped(1)
                _build(stack[-1], state)
            case _:
                said = "" if argument is None else f" {argument!r:.80}"
                raise FormatError(
                    f"its pickle has the instruction {name}{said}: it is no plain state_dict"
                )

    def _popped(self, count: int) -> tuple:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise FormatError("its pickle is damaged: a value is missing")
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list:
        items = self.stack
        self.stack = self._below.pop()
        return items

    def _extend(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise FormatError(f"its pickle appends to a {type(target).__name__}")

    def _named(self, module: object, name: object) -> object:
        if not isinstance(module, str) or not isinstance(name, str):
            raise FormatError("its pickle is damaged: a class's name is no text")
        full = f"{module}.{name}"
        if full not in self._known:
            raise FormatError(
                f"the file wants to call {full:.200}: it is no plain state_dict (if you trust it, "
                "load it with torch and save the model's state_dict())"
            )
        return self._known[full]


def _called(function: object, arguments: object) -> object:
    if not isinstance(function, Call) or not isinstance(arguments, tuple):
        raise FormatError(f"its pickle calls a {type(function).__name__}")
    return function.function(*arguments)


def _build(target: object, state: object) -> None:
    if isinstance(target, Buildable):
        target.build(state)
    elif not isinstance(target, dict | Opaque):  # theirs are attributes, such as versions
        raise FormatError(f"its pickle gives a state to a {type(target).__name__}")


class _Bounded:
    """A stream of whose bytes nobody can ask for too many at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        if count > _LONGEST_STRING:
            raise FormatError(f"its pickle has a text of {count} bytes")
        return self._stream.read(count)

    def readline(self) -> bytes:
        return self._stream.readline(_LONGEST_STRING)
