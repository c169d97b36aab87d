"""Examples whose images a model's attacker moved."""

from .component import AdversarialGen

__all__ = ["AdversarialGen"]
