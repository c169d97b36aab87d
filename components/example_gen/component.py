"""Specification of `ExampleGen`."""

from ..artifacts import Examples
from ..base import OPERATION, Component, ComponentSpec
from .executor import ExampleGenExecutor


class ExampleGen(Component):
    """Writes any data source of the library as TFRecord examples, with a schema.

    Outputs:
        examples: `Examples`, all splits, as `--data.` says.
    """

    NAME = "example_gen"
    SPEC = ComponentSpec(
        INPUTS={},
        OUTPUTS={"examples": Examples},
        PARAMETERS=(
            *("data.name", "data.image_size", "data.validation_fraction"),
            *("data.label_seed", "data.corrupt_cap", "data.dir"),
        ),
        OPERATION=(*OPERATION, "data.download"),
    )
    EXECUTOR = ExampleGenExecutor
