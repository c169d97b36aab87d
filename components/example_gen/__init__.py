"""Data of any source as TFRecord examples."""

from .component import ExampleGen

__all__ = ["ExampleGen"]
