"""A blessed model, versioned, for serving."""

from .component import Push

__all__ = ["Push"]
