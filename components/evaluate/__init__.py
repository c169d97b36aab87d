"""Attacks on a model, and the report."""

from .component import Evaluate

__all__ = ["Evaluate"]
