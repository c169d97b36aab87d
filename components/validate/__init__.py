"""The verdict on an evaluation."""

from .component import Validate

__all__ = ["Validate"]
