"""What a method starts from: a teacher, or members."""

from .component import Start, StartEnsemble

__all__ = ["Start", "StartEnsemble"]
