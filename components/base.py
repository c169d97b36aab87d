"""What a component is: a specification, and an executor that does the work."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from kerobust.config import UserError
from kerobust.experiment import ExperimentConfig

from .artifacts import Artifact

Artifacts = dict[str, list[Artifact]]


@dataclasses.dataclass(frozen=True)
class ComponentSpec:
    """What goes into a component and comes out of it.

    Attributes:
        INPUTS: Name -> type of artifact.
        OUTPUTS: Name -> type of artifact.
        PARAMETERS: Flags that decide what comes out; a name that ends in a dot stands
            for all flags of a section.
        OPERATION: Flags that may change how it is computed but not what comes out.
        OPTIONAL: Inputs that may be missing.
    """

    INPUTS: Mapping[str, type[Artifact]]
    OUTPUTS: Mapping[str, type[Artifact]]
    PARAMETERS: tuple[str, ...]
    OPERATION: tuple[str, ...] = ("run.", "data.memory_gigabytes")
    OPTIONAL: tuple[str, ...] = ()


class Executor:
    """Does the work of a component; subclasses call one workflow function."""

    def Do(
        self,
        inputs: Artifacts,
        outputs: Artifacts,
        exec_properties: Mapping[str, str],
    ) -> None:
        """Reads `inputs`, fills the folders of `outputs`.

        Args:
            inputs: Name -> artifacts, complete ones.
            outputs: Name -> artifacts whose `uri` is a folder, new or left behind by
                an interrupted execution, which is continued.
            exec_properties: Flag name without dashes -> text.

        Raises:
            UserError: For what the flags of the command line would refuse.
        """
        raise NotImplementedError


class Component:
    """Base of all components.

    Attributes:
        NAME: In pipelines, folders and the store.
        SPEC: `ComponentSpec`.
        EXECUTOR: Class that does the work.
    """

    NAME: ClassVar[str]
    SPEC: ClassVar[ComponentSpec]
    EXECUTOR: ClassVar[type[Executor]]

    @classmethod
    def parameters(cls, config: ExperimentConfig) -> dict[str, str]:
        """Returns the flags that decide what comes out, name -> text."""
        return _chosen(config, cls.SPEC.PARAMETERS)

    @classmethod
    def operation(cls, config: ExperimentConfig) -> dict[str, str]:
        """Returns the flags that do not, name -> text."""
        given = _chosen(config, cls.SPEC.OPERATION)
        return {name: given[name] for name in given if name not in _DECIDED}

    @classmethod
    def check_inputs(cls, inputs: Artifacts) -> None:
        """Refuses inputs that are missing, unknown or of another type.

        Raises:
            UserError: Naming component and input.
        """
        for name, kind in cls.SPEC.INPUTS.items():
            given = inputs.get(name, [])
            if not given and name in cls.SPEC.OPTIONAL:
                continue
            types = ", ".join(type(each).TYPE_NAME for each in given) or "nothing"
            if not given or not all(isinstance(each, kind) for each in given):
                raise UserError(
                    f"`{cls.NAME}` must get {kind.TYPE_NAME} as input `{name}`. "
                    f"Received: {name}={types}. Connect an output of that type."
                )
        for name in inputs:
            if name not in cls.SPEC.INPUTS:
                raise UserError(
                    f"`{cls.NAME}` must get inputs that it knows: "
                    f"{', '.join(cls.SPEC.INPUTS) or 'none'}. Received: {name}."
                )


# Set by executors themselves, from their artifacts.
_DECIDED = ("run.workdir", "run.stages", "run.init_from")


def _chosen(config: ExperimentConfig, names: tuple[str, ...]) -> dict[str, str]:
    """Returns the flags with these names, or of these sections."""
    sections = tuple(name for name in names if name.endswith("."))
    return {
        name: text
        for name, text in config.to_flags().items()
        if name in names or (sections and name.startswith(sections))
    }
