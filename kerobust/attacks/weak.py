"""Values that live exactly as long as the object they were made for."""

import weakref
from collections.abc import Callable
from typing import Any


class WeakIdentityCache:
    """Remembers one value per living object, compared by identity.

    `weakref.WeakKeyDictionary` compares with `==` and refuses unhashable keys. A value
    must not refer to its key, else neither is ever freed.
    """

    def __init__(self):
        self._entries: dict[int, tuple[weakref.ref, Any]] = {}

    def __len__(self):
        return len(self._entries)

    def __reduce__(self):
        return type(self), ()  # Copies start empty: compiled functions do not travel.

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Returns the value of `key`, made by `make()` when it is first asked for.

        Raises:
            TypeError: If `key` does not support weak references.
        """
        name, entries = id(key), self._entries
        if name not in entries:
            reference = weakref.ref(key, lambda _: entries.pop(name, None))
            entries[name] = (reference, make())
        return entries[name][1]
