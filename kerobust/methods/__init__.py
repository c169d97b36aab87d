"""Training methods; a flag value is a file name is a key here."""

from kerobust.methods.mae import Mae
from kerobust.methods.mimir import Mimir

METHODS: dict[str, type[Mae]] = {"mae": Mae, "mimir": Mimir}
