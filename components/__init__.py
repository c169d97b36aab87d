"""Pipeline components: the workflows of kerobust in the language of TFX.

Each component has a specification (typed inputs and outputs, and the flags it reads)
and an executor that calls one workflow function of `kerobust`. The package is called
`components` in a checkout and `kerobust.components` where kerobust is installed.
"""

import sys

_NAMES = ("components", "kerobust.components")
for _other in _NAMES:
    if _other != __name__ and _other in sys.modules:
        raise ImportError(
            f"`{__name__}` must not be imported beside `{_other}`: every class would "
            f"exist twice. Received: both names in one process. Import {_other} only."
        )
