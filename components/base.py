"""What a component is: a specification, and an executor that does the work."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import ClassVar

from kerobust.batch_state import path_digest
from kerobust.config import UserError
from kerobust.experiment import ExperimentConfig

from .artifacts import Artifact

Artifacts = dict[str, list[Artifact]]
# Batch sizes are checked together with the number of devices.
OPERATION = (
    *("run.", "data.memory_gigabytes", "start.batch_size", "pretrain.batch_size"),
    "finetune.batch_size",
)
# Flags that name files of this machine.
_PATHS = ("run.init_from", "validate.baseline", "diversity.surrogates")


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
    OPERATION: tuple[str, ...] = OPERATION
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
    def files(cls, config: ExperimentConfig) -> dict[str, list[str]]:
        """Returns flag -> digests of the files that it names."""
        given = cls.parameters(config)
        found = {
            name: [path_digest(path) for path in given[name].split(",")]
            for name in _PATHS
            if given.get(name)
        }
        _, _, path = given.get("data.name", "").partition(":")
        if path:
            found["data.name"] = [_listing_digest(pathlib.Path(path).expanduser())]
        return found

    @classmethod
    def operation(cls, config: ExperimentConfig) -> dict[str, str]:
        """Returns the flags that do not, name -> text."""
        given = _chosen(config, cls.SPEC.OPERATION)
        return {name: given[name] for name in given if name not in _DECIDED}

    @classmethod
    def properties(cls, config: ExperimentConfig) -> dict[str, str]:
        """Returns the properties of an execution: `operation` and `parameters`."""
        return {**cls.operation(config), **cls.parameters(config)}

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
                    f"{', '.join(cls.SPEC.INPUTS) or 'none'}. Received: {name}. Leave "
                    "it out."
                )


# Set by executors themselves, from their artifacts.
_DECIDED = ("run.workdir", "run.stages", "run.init_from")


def _listing_digest(path: pathlib.Path) -> str:
    """Returns the SHA-256 of names, sizes and times of change of what is at a path."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    digest = hashlib.sha256()
    for file in files:
        known = file.stat()
        text = f"{file.relative_to(path)} {known.st_size} {known.st_mtime_ns}"
        digest.update(text.encode() * file.is_file())
    return digest.hexdigest()


def _chosen(config: ExperimentConfig, names: tuple[str, ...]) -> dict[str, str]:
    """Returns the flags with these names, or of these sections."""
    sections = tuple(name for name in names if name.endswith("."))
    return {
        name: text
        for name, text in config.to_flags().items()
        if name in names or (sections and name.startswith(sections))
    }
