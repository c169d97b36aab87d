"""A classifier on a trained encoder."""

from .component import Probe

__all__ = ["Probe"]
