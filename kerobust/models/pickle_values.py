"""Pickles read as data: nothing that a pickle names is imported or called.

The opcodes are those that Python's `pickletools` finds; what they do is done here, on
plain values. A global of the pickle is looked up in a table of this library's own
functions and refused if it is not there.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

_KEYS = (str, int, float, bool, bytes, type(None))


class ForbiddenError(ValueError):
    """A pickle asks for more than plain values; the message says for what."""


class Record(dict):
    """An object of which only the name of its class and its fields are kept.

    Args:
        kind: Name of the class, such as `argparse.Namespace`.
        fields: Its attributes, or what it was called with.
    """

    def __init__(self, kind: str, fields: Mapping[str, Any]):
        super().__init__(fields)
        self.kind = kind


class Global:
    """A global of a pickle that is known: a name and what stands in for it.

    Args:
        name: `module.name` in the pickle.
        stand_in: Function of this library, called where the pickle calls the global;
            None if it must not be called.
    """

    __slots__ = ("name", "stand_in")

    def __init__(self, name: str, stand_in: Callable[..., Any] | None = None):
        self.name, self.stand_in = name, stand_in


class PickleMachine:
    """Reads one pickle after the other from a file.

    Args:
        stand_ins: Name of a global -> what is called instead, or None for a global that
            is only named, never called.
        persistent: Given a persistent id, returns the value that it stands for; without
            it such ids are refused.
    """

    def __init__(
        self,
        stand_ins: Mapping[str, Callable[..., Any] | None],
        persistent: Callable[[Any], Any] | None = None,
    ):
        self._stand_ins, self._persistent = stand_ins, persistent

    def read(self, file: BinaryIO) -> Any:
        """Returns the value of the pickle that starts here; leaves `file` behind it.

        Raises:
            ForbiddenError: If the pickle asks for anything else than plain values and
                known globals. Nothing of it has been run then.
            ValueError, IndexError, KeyError, TypeError: If it is not a pickle.
        """
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # Stacks that a mark has set aside.
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                break
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _VALUES:
                self._stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise ForbiddenError(f"the opcode {name}")
        (value,) = self._stack
        return value

    def _mark(self, _):
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        """Returns what lies above the last mark and takes both away."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _pop(self, _):
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _pop_mark(self, _):
        self._marked()

    def _put(self, argument):
        self._memo[argument] = self._stack[-1]

    def _memoize(self, _):
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, argument):
        self._stack.append(self._memo[argument])

    def _tuple(self, count: int):
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _collect(self, make: Callable[[list[Any]], Any]):
        value = make(self._marked())
        self._stack.append(value)

    def _append(self, items: list[Any]):
        if not isinstance(self._stack[-1], list):
            raise ForbiddenError(f"appending to a {_kind(self._stack[-1])}")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]):
        if not isinstance(self._stack[-1], dict):
            raise ForbiddenError(f"setting an item of a {_kind(self._stack[-1])}")
        self._stack[-1].update(_pairs(items))

    def _global(self, argument: str):
        module, _, name = argument.partition(" ")
        self._push_global(module, name)

    def _stack_global(self, _):
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ForbiddenError("a global whose name is no text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str):
        full = f"{module}.{name}"
        if full not in self._stand_ins:
            raise ForbiddenError(f"the global {full}")
        self._stack.append(Global(full, self._stand_ins[full]))

    def _instance(self, argument: str):
        """Refuses INST, which old pickles make instances with; names its global."""
        self._global(argument)
        raise ForbiddenError(f"an instance of {self._stack[-1].name}")

    def _call(self, _):
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or function.stand_in is None:
            raise ForbiddenError(f"a call of a {_kind(function)}")
        if not isinstance(arguments, tuple):
            raise ForbiddenError(f"a call of {function.name} without arguments")
        try:
            self._stack.append(function.stand_in(*arguments))
        except TypeError as error:
            raise ForbiddenError(f"{function.name} with other arguments") from error

    def _build(self, _):
        """Gives a record its fields; attributes of a dict (`_metadata`) are dropped."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Record):
            target.update(checked_dict(state) if isinstance(state, dict) else {})
        elif not isinstance(target, dict):
            raise ForbiddenError(f"setting the state of a {_kind(target)}")

    def _persistent_value(self, _):
        if self._persistent is None:
            raise ForbiddenError("a persistent id")
        self._stack.append(self._persistent(self._stack.pop()))


def checked_dict(pairs) -> dict[Any, Any]:
    """Returns a dict of pairs, or of a dict, whose keys are text, numbers or None.

    Raises:
        ForbiddenError: If a key is of another kind: hashing what is nested too deeply
            would end the process.
    """
    pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
    for key, _ in pairs:
        if not isinstance(key, _KEYS):
            raise ForbiddenError(f"a {_kind(key)} as a key")
    return dict(pairs)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return checked_dict(zip(items[::2], items[1::2], strict=True))


def _kind(value: Any) -> str:
    return f"global {value.name}" if isinstance(value, Global) else type(value).__name__


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_ACTIONS: dict[str, Callable[[PickleMachine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": PickleMachine._mark,
    "POP": PickleMachine._pop,
    "POP_MARK": PickleMachine._pop_mark,
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), PickleMachine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), PickleMachine._get),
    "MEMOIZE": PickleMachine._memoize,
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine._tuple(0),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": lambda machine, _: machine._collect(tuple),
    "LIST": lambda machine, _: machine._collect(list),
    "DICT": lambda machine, _: machine._collect(_pairs),
    "APPEND": lambda machine, _: machine._append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._marked()),
    "SETITEM": lambda machine, _: machine._set(
        [machine._stack.pop(), machine._stack.pop()][::-1]
    ),
    "SETITEMS": lambda machine, _: machine._set(machine._marked()),
    "GLOBAL": PickleMachine._global,
    "STACK_GLOBAL": PickleMachine._stack_global,
    "INST": PickleMachine._instance,
    "REDUCE": PickleMachine._call,
    "NEWOBJ": PickleMachine._call,
    "BUILD": PickleMachine._build,
    "BINPERSID": PickleMachine._persistent_value,
}
