"""Training methods; a flag value is a file name is a key here."""

from kerobust.methods.base import Method
from kerobust.methods.deacl import Deacl
from kerobust.methods.dino import Dino
from kerobust.methods.dverge import Dverge
from kerobust.methods.ensemble import EnsembleTraining
from kerobust.methods.fare import Fare
from kerobust.methods.mae import Mae
from kerobust.methods.mimir import Mimir
from kerobust.methods.multi import Multi
from kerobust.methods.rodino import Rodino

METHODS: dict[str, type[Method]] = {
    "deacl": Deacl,
    "dino": Dino,
    "dverge": Dverge,
    "ensemble": EnsembleTraining,
    "fare": Fare,
    "mae": Mae,
    "mimir": Mimir,
    "multi": Multi,
    "rodino": Rodino,
}
