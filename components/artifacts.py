"""What passes between components: typed folders with a digest."""

import dataclasses
import hashlib
import json
import pathlib
from typing import ClassVar

from kerobust.config import UserError
from kerobust.data import examples
from kerobust.models.bundle import is_intact


@dataclasses.dataclass
class Artifact:
    """A folder that one execution wrote.

    Attributes:
        uri: The folder.
        properties: What is known about it, str -> str; "digest" of its content.
        id: Number in the store; 0 = not stored.
    """

    TYPE_NAME: ClassVar[str] = "Artifact"
    # Files that tell one content from another; all that exist are read.
    CONTENT: ClassVar[tuple[str, ...]] = ()

    uri: pathlib.Path
    properties: dict[str, str] = dataclasses.field(default_factory=dict)
    id: int = 0

    def content_digest(self) -> str:
        """Returns the SHA-256 of `CONTENT`.

        Raises:
            UserError: If none of these files is there.
        """
        digest, found = hashlib.sha256(self.TYPE_NAME.encode()), False
        for name in self.CONTENT:
            path = self.uri / name
            if path.is_file():
                digest.update(name.encode() + path.read_bytes())
                found = True
        if not found:
            raise UserError(
                f"`{self.TYPE_NAME}` must hold {' or '.join(self.CONTENT)}. Received: "
                f"uri={self.uri}. The executor did not finish, or the folder was moved."
            )
        return digest.hexdigest()

    def is_intact(self) -> bool:
        """Returns whether it is what it was when it was stored."""
        try:
            return self.content_digest() == self.properties["digest"]
        except UserError:
            return False


class Examples(Artifact):
    """Images and labels as TFRecord files, see `kerobust.data.examples`."""

    TYPE_NAME = "Examples"
    CONTENT = ("examples.json",)

    @property
    def folder(self) -> pathlib.Path:
        """The folder that `--data.name=examples:` takes."""
        return self.uri

    def is_intact(self):
        return super().is_intact() and examples.is_intact(self.folder)


class AdversarialExamples(Examples):
    """Run folder of the stage perturb; the examples are in `adversarial`."""

    TYPE_NAME = "AdversarialExamples"
    CONTENT = ("adversarial/examples.json",)

    @property
    def folder(self) -> pathlib.Path:
        return self.uri / "adversarial"


class Model(Artifact):
    """Run folder of a training."""

    BUNDLES: ClassVar[tuple[str, ...]] = ()  # Where it may be, the likeliest first.

    @property
    def bundle(self) -> pathlib.Path:
        """The folder of the trained bundle."""
        found = [self.uri / name for name in self.BUNDLES if (self.uri / name).exists()]
        return found[0] if found else self.uri / self.BUNDLES[0]

    def is_intact(self):
        return super().is_intact() and is_intact(self.bundle)


class EncoderModel(Model):
    """Run folder of a pretraining; the bundle is `encoder`, or `start`."""

    TYPE_NAME = "EncoderModel"
    BUNDLES = ("encoder", "start")
    CONTENT = tuple(f"{name}/manifest.json" for name in BUNDLES)


class TaskModel(Model):
    """Run folder of a classifier: fine-tuned, or an ensemble."""

    TYPE_NAME = "TaskModel"
    BUNDLES = ("finetune/model", "ensemble", "start")
    CONTENT = tuple(f"{name}/manifest.json" for name in BUNDLES)


class RobustnessReport(Artifact):
    """Run folder of an evaluation."""

    TYPE_NAME = "RobustnessReport"
    CONTENT = ("report.json",)


class Blessing(Artifact):
    """The verdict on an evaluation: `blessing.json`."""

    TYPE_NAME = "Blessing"
    CONTENT = ("blessing.json",)


class PushedModel(Artifact):
    """Where a blessed model went: `pushed.json`, with an empty path if it was not."""

    TYPE_NAME = "PushedModel"
    CONTENT = ("pushed.json",)

    def is_intact(self):
        if not super().is_intact():
            return False
        path = json.loads((self.uri / "pushed.json").read_text())["path"]
        return not path or pathlib.Path(path).is_dir()


ARTIFACTS: dict[str, type[Artifact]] = {
    kind.TYPE_NAME: kind
    for kind in (
        *(Examples, AdversarialExamples, EncoderModel, TaskModel),
        *(RobustnessReport, Blessing, PushedModel),
    )
}
