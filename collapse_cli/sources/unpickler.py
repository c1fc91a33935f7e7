"""A pickle as a tree of plain values, tensor references and inert records. Nothing it names is imported or called.

The opcodes are those of `pickletools` (protocols 0 to 5), interpreted here on a stack of our own. What a pickle can
build is bounded: every limit below ends in an `UnreadableCheckpoint` with its number.
"""

import io
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn, final

from collapse_cli.errors import UnreadableCheckpoint, UnsafeCheckpoint
from collapse_cli.sources.pickled import (
    OLD_MODULES,
    REBUILT,
    GlobalName,
    Opaque,
    StorageRef,
    refusal,
    storage,
)

__all__ = ["Limits", "Unpickled", "unpickled"]


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """How much one pickle may make us build.

    A tensor of `torch.save` takes about 25 opcodes, so that ten million hold 400,000 tensors; the largest published
    checkpoints have fewer than 200,000 in all their shards. A pickler recurses for nested marks, and C Python stops it
    at 1,000. Text longer than 16 MiB is no name, and no Python pickler splits it.
    """

    opcodes: int = 10_000_000
    memo: int = 5_000_000
    stack: int = 1_000_000
    marks: int = 2_000
    text: int = 1 << 24
    integer: int = 1 << 10  # bytes; below the 4,300 digits at which Python refuses to print a number
    copied: int = 1 << 26  # entries that rebuilding containers may copy, in all
    key_parts: int = 64


@final
@dataclass(frozen=True, slots=True)
class Unpickled:
    """The value of a pickle, and every storage it mentions by key."""

    tree: Any
    storages: dict[str, StorageRef]


def unpickled(data: bytes, *, where: str, limits: Limits | None = None) -> Unpickled:
    """The tree a pickle describes; unknown classes become `Opaque`, tensors `TensorRef` or `UnreadableTensor`.

    Raises:
        UnreadableCheckpoint: it is no pickle, or a bound is passed.
        UnsafeCheckpoint: it names a function that runs code or reaches the system.
    """
    machine = _Machine(where, limits or Limits())
    try:
        machine.run(data)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        machine.broken(_reason(error))
    return Unpickled(machine.result, machine.storages)


def _reason(error: Exception) -> str:
    match error:
        case IndexError():
            return "an operation of the pickle takes more than the stack holds"
        case TypeError() | AttributeError() | KeyError():
            return "an operation of the pickle meets a value of the wrong kind"
    return _shown(str(error))


def _shown(text: str) -> str:
    """Text from a file as one bounded printable line."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:200])
    return line + ("…" if len(text) > 200 else "")


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    operations = pickletools.genops(io.BytesIO(data))
    while True:
        try:
            operation, argument, _ = next(operations)
        except StopIteration:
            return
        except (ValueError, OverflowError, struct.error, Warning) as error:
            raise ValueError(f"it is not a pickle: {error}") from None
        yield operation.name, argument


@final
class _Machine:
    """The stack, memo and marks of one pickle while it is read."""

    def __init__(self, where: str, limits: Limits) -> None:
        self.where, self.limits = where, limits
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self.copied = 0
        self.result: Any = None

    def broken(self, what: str, *, hint: str = "") -> NoReturn:
        raise UnreadableCheckpoint(what, where=self.where, hint=hint)

    def bound(self, count: int, limit: int, what: str) -> None:
        if count > limit:
            self.broken(
                f"its pickle has more than {limit:,} {what}", hint="no checkpoint needs that many; where is it from?"
            )

    def run(self, data: bytes) -> None:
        limits = self.limits
        for count, (name, argument) in enumerate(_opcodes(data), start=1):
            self.bound(count, limits.opcodes, "operations")
            self.bound(len(self.stack), limits.stack, "values on its stack")
            if isinstance(argument, str):
                self.bound(len(argument), limits.text, "characters in one text")
            elif isinstance(argument, int):
                self.bound(argument.bit_length(), limits.integer * 8, "bits in one integer")
            if name == "STOP":
                self.result = self.stack.pop()
                return
            act = _ACTIONS.get(name)
            if act is None:
                raise ValueError(f"its pickle uses the operation {name}, which torch.save never writes")
            act(self, argument)

    def marked(self) -> list[Any]:
        """What lies above the last mark; the stack below it is current again."""
        above, self.stack = self.stack, self.marks.pop()
        return above

    def mark(self) -> None:
        self.bound(len(self.marks) + 1, self.limits.marks, "nested marks")
        self.marks.append(self.stack)
        self.stack = []

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]
        self.bound(len(self.memo), self.limits.memo, "remembered values")

    def copying(self, values: Any) -> Any:
        self.copied += len(values)
        self.bound(self.copied, self.limits.copied, "copied values")
        return values

    def key(self, value: Any) -> Any:
        """A dictionary key or member of a set, once it is certain that hashing it is cheap."""
        pending, parts = [value], 0
        while pending:
            part = pending.pop()
            parts += 1
            self.bound(parts, self.limits.key_parts, "parts in one key")
            if isinstance(part, tuple | frozenset):
                self.bound(len(part), self.limits.key_parts, "parts in one key")
                pending.extend(part)
            elif isinstance(part, list | dict | set):
                raise ValueError("a key of a dictionary can change")  # noqa: TRY004  (bad bytes, not a bad call)
        return value

    def name(self, module: Any, name: Any) -> GlobalName:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global of its pickle has no name")  # noqa: TRY004  (bad bytes, not a bad call)
        if refused := refusal(module, name):
            raise UnsafeCheckpoint(
                f"it calls {_shown(refused)}. Nothing was executed",
                where=self.where,
                hint="do not load it anywhere; ask for safetensors",
            )
        return GlobalName(f"{OLD_MODULES.get(module, module)}.{name}")

    def call(self, callee: Any, args: Any, named: dict[Any, Any] | None = None) -> Any:
        """What calling would have made: rebuilt where that is known, otherwise a record of the call."""
        if not isinstance(args, tuple):
            raise ValueError("a call of its pickle has no arguments")  # noqa: TRY004  (bad bytes, not a bad call)
        name = callee.name if isinstance(callee, GlobalName | Opaque) else "object"
        if isinstance(callee, GlobalName):
            if (container := _CONTAINERS.get(name)) is not None:
                return container(self, args)
            if (rebuild := REBUILT.get(name)) is not None:
                for value in args:
                    if isinstance(value, str | bytes | list | tuple):
                        self.copying(value)
                return rebuild(*args)
        return Opaque(name, args, entries=dict(named or {}))

    def extend(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, Opaque):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(self.key(value) for value in values)
        else:
            raise ValueError("its pickle appends to a value that is no list")  # noqa: TRY004  (bad bytes, not a bad call)

    def fill(self, target: Any, pairs: list[Any]) -> None:
        entries = target.entries if isinstance(target, Opaque) else target
        if not isinstance(entries, dict) or len(pairs) % 2:
            raise ValueError("its pickle sets entries of a value that is no dictionary, or half an entry")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            entries[self.key(key)] = value

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        # what a rebuilt value would do with its state (`_metadata` of an OrderedDict) is nothing we read

    def load_storage(self) -> None:
        found = storage(self.stack.pop())
        if self.storages.setdefault(found.key, found).nbytes not in (None, found.nbytes):
            raise ValueError(f"storage {_shown(found.key)} has two sizes")
        self.stack.append(found)


# --- containers that are rebuilt; their keys are checked, their copies counted ----------------------------------------


def _pairs(machine: _Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    built: dict[Any, Any] = {}
    source = args[0] if args else {}
    pairs = source.items() if isinstance(source, dict) else source
    for key, value in machine.copying(pairs):
        built[machine.key(key)] = value
    return built


def _default(machine: _Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    return _pairs(machine, args[1:])


def _members(machine: _Machine, args: tuple[Any, ...]) -> set[Any]:
    return {machine.key(value) for value in machine.copying(_iterable(args))}


def _frozen(machine: _Machine, args: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(_members(machine, args))


def _listed(machine: _Machine, args: tuple[Any, ...]) -> list[Any]:
    return list(machine.copying(_iterable(args)))


def _tupled(machine: _Machine, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(machine.copying(_iterable(args)))


def _iterable(args: tuple[Any, ...]) -> Any:
    source = args[0] if args else ()
    if not isinstance(source, list | tuple | set | frozenset | dict):
        raise ValueError("a container of its pickle is made of a single value")  # noqa: TRY004  (bad bytes, not a bad call)
    return source


_CONTAINERS: Final[dict[str, Callable[[_Machine, tuple[Any, ...]], Any]]] = {
    "collections.OrderedDict": _pairs,
    "collections.Counter": _pairs,
    "collections.defaultdict": _default,
    "builtins.dict": _pairs,
    "builtins.set": _members,
    "builtins.frozenset": _frozen,
    "builtins.list": _listed,
    "builtins.tuple": _tupled,
}


_Act = Callable[[_Machine, Any], None]


# --- opcodes ---------------------------------------------------------------------------------------------------------


def _constant(value: Any) -> _Act:
    return lambda machine, _: machine.stack.append(value)


def _argument(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _pop(machine: _Machine, _: Any) -> None:
    # a POP at the bottom of a mark takes the mark
    if machine.stack or not machine.marks:
        machine.stack.pop()
    else:
        machine.marked()


def _tuple_of(count: int) -> _Act:
    def act(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise IndexError
        values = tuple(machine.stack[-count:])
        machine.stack[-count:] = [values]

    return act


def _marked_tuple(machine: _Machine, _: Any) -> None:
    values = machine.marked()  # before the stack is named: this puts back the one below the mark
    machine.stack.append(tuple(values))


def _marked_list(machine: _Machine, _: Any) -> None:
    values = machine.marked()
    machine.stack.append(values)


def _marked_dict(machine: _Machine, _: Any) -> None:
    pairs, built = machine.marked(), dict[Any, Any]()
    machine.fill(built, pairs)
    machine.stack.append(built)


def _marked_set(machine: _Machine, _: Any) -> None:
    values = machine.marked()
    machine.stack.append(frozenset(machine.key(value) for value in values))


def _append(machine: _Machine, _: Any) -> None:
    value = machine.stack.pop()
    machine.extend(machine.stack[-1], [value])


def _appends(machine: _Machine, _: Any) -> None:
    values = machine.marked()
    machine.extend(machine.stack[-1], values)


def _setitem(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.fill(machine.stack[-1], [key, value])


def _setitems(machine: _Machine, _: Any) -> None:
    pairs = machine.marked()
    machine.fill(machine.stack[-1], pairs)


def _get(machine: _Machine, key: Any) -> None:
    if key not in machine.memo:
        raise ValueError("its pickle recalls a value it never remembered")
    machine.stack.append(machine.memo[key])


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")  # pickletools joins the two lines with a blank
    machine.stack.append(machine.name(module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.name(module, name))


def _reduce(machine: _Machine, _: Any) -> None:
    args, callee = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(callee, args))


def _new_with_names(machine: _Machine, _: Any) -> None:
    named, args, callee = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(callee, args, dict(machine.copying(named))))


def _instance(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    args = tuple(machine.marked())
    machine.stack.append(machine.call(machine.name(module, name), args))


def _object(machine: _Machine, _: Any) -> None:
    callee, *args = machine.marked()
    machine.stack.append(machine.call(callee, tuple(args)))


def _protocol(_: _Machine, version: Any) -> None:
    if version > 5:
        raise ValueError(f"its pickle has protocol {version}, newer than 5")


_ACTIONS: Final[dict[str, _Act]] = {
    "PROTO": _protocol,
    "FRAME": lambda _machine, _length: None,
    "MARK": lambda machine, _: machine.mark(),
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.marked().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    **dict.fromkeys(
        """
        INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE
        SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
        """.split(),  # noqa: SIM905  (every opcode whose value is its argument, in three lines)
        _argument,
    ),
    "TUPLE": _marked_tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": _marked_list,
    "DICT": _marked_dict,
    "FROZENSET": _marked_set,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "PUT": lambda machine, key: machine.remember(key),
    "BINPUT": lambda machine, key: machine.remember(key),
    "LONG_BINPUT": lambda machine, key: machine.remember(key),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_names,
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.load_storage(),
}
