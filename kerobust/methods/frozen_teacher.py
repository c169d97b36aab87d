"""What DeACL, FARE and multi share: a frozen encoder, and a copy of it made robust."""

import dataclasses

import tensorflow as tf

from kerobust.config import UserError, setting
from kerobust.losses.similarity import cosine_similarity, spread
from kerobust.methods.base import Batch, Method
from kerobust.methods.collapse import SPREAD
from kerobust.methods.inner_attack import InnerAttackConfig
from kerobust.methods.start import Length, encoder_of
from kerobust.methods.teacher import frozen_copy
from kerobust.models.weights import copy_weights
from kerobust.randomness import fold_in
from kerobust.types import Tokens


@dataclasses.dataclass(frozen=True)
class FrozenTeacherConfig(InnerAttackConfig):
    """The attack, and what of the encoders is compared."""

    steps: int = setting(5, "Steps of the attack.", low=1)
    step_size: float | None = setting(
        2 / 255, "Step of the attack, pixel units; empty = 2.5 epsilon / steps.", low=0
    )
    random_start: bool = setting(
        True, "Must be true: at the clean image the gradient of the attack is zero."
    )
    student: str = setting(
        "teacher",
        "Where the student starts: teacher (its weights) or scratch (new ones).",
        choices=("teacher", "scratch"),
    )
    tokens: str = setting(
        "cls",
        "What is compared: cls (class token, or pooled features), mean (of the patch"
        " tokens), both side by side, or dense (every token; the class token counts as"
        " much as all patches).",
        choices=("cls", "mean", "both", "dense"),
    )

    def __post_init__(self):
        super().__post_init__()
        self.require(
            self.random_start,
            "random_start",
            "must be true",
            "A student that starts as a copy of its teacher has no gradient at the "
            "clean image, and an attack from there never moves.",
        )


class FrozenTeacher(Method):
    """Base: trains a student so that attacks cannot move it from a frozen teacher.

    A subclass names its settings (`SECTION`), makes its `attack` and its `objective`
    and writes its loss terms.
    `guide` adds the teacher's embedding of the clean image, `target` float32 [B, D].

    Args:
        student: Encoder that is trained.
        teacher: Encoder with the same tokens; frozen.
        config: `FrozenTeacherConfig`.
    """

    SECTION = ""
    MEASURES: tuple[str, ...] = (
        "adversarial_similarity",
        "perturbation",
        "feature_spread",
    )
    monitors = (SPREAD,)

    def __init__(self, student, teacher, config: FrozenTeacherConfig, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.teacher = student, teacher
        self.config = config

    @classmethod
    def from_experiment(cls, experiment, image_shape, length: Length, start=None):
        """Returns the method for the encoder of a bundle.

        Args:
            experiment: `ExperimentConfig`.
            image_shape: (height, width, channels).
            length: `Length` of the training.
            start: Loaded bundle with the teacher; see `encoder_of`.

        Raises:
            UserError: If there is no teacher, or it cannot read the images.
        """
        config, known = getattr(experiment, cls.SECTION), encoder_of(start)
        if known is None:
            raise UserError(
                f"`--run.init_from` must name the bundle of a teacher for --method="
                f"{cls.SECTION}. Received: init_from=None and no teacher in "
                f"{experiment.run.workdir}. Name a bundle, convert published weights "
                "(python -m kerobust.convert), or add start to --run.stages."
            )
        check_images(known, image_shape)
        teacher = frozen_copy(known)
        student = type(known).from_config(known.get_config())
        if config.student == "teacher":
            copy_weights(known, student)
        return cls(student, teacher, config, *cls._parts(experiment, start, length))

    @staticmethod
    def _parts(experiment, start, length: Length) -> tuple:
        """Returns further arguments of the constructor."""
        return ()

    @property
    def exports(self):
        return {"encoder": self.encoder}

    def trained_variables(self):
        return self.encoder.trainable_variables

    def rate_groups(self):
        return self.encoder.layer_groups()

    def embed(self, encoder, images, training: bool = False, keys=None) -> tf.Tensor:
        """Returns the embedding that is compared, float32 [B, D]."""
        tokens: Tokens = encoder(images, training=training, keys=keys)
        if self.config.tokens == "dense":
            return self.side_by_side(tokens)
        parts = []
        if self.config.tokens in ("cls", "both"):
            parts.append(tokens.cls)
        if self.config.tokens in ("mean", "both"):
            parts.append(tf.reduce_mean(tokens.patches, axis=1))
        return tf.concat(parts, axis=-1)

    def side_by_side(self, tokens: Tokens) -> tf.Tensor:
        """Returns all tokens as one vector, float32 [B, (1 + N) D].

        Its squared distance from another one is the mean of that of the class tokens
        and the mean over patches of theirs.
        """
        count, width = tokens.patches.shape[1:]
        patches = tf.reshape(tokens.patches, [-1, count * width])
        parts = [tokens.cls, patches / count**0.5]
        return 0.5**0.5 * tf.concat(parts, axis=-1)

    def guide(self, batch: Batch) -> Batch:
        return {**batch, "target": self.embed(self.teacher, batch["images"])}

    def attack_targets(self, batch: Batch):
        """Returns the targets of the attack, tensors with leading B."""
        return batch["target"]

    def perturb(self, batch: Batch) -> Batch:
        images, keys = batch["images"], fold_in(batch["keys"], "attack")
        targets = self.attack_targets(batch)
        adversarial = self.attack(images, targets, self.objective, keys=keys)
        self.measure("perturbation", self.attack.ball.norm(adversarial - images))
        return {**batch, "adversarial": adversarial}

    def measure_adversarial(self, adversarial, target) -> None:
        """Logs what the student's embeddings float32 [B, D] of attacked images do."""
        self.measure("adversarial_similarity", cosine_similarity(adversarial, target))
        self.measure("feature_spread", spread(adversarial))


def check_images(encoder: tf.keras.Model, image_shape) -> None:
    """Raises a `UserError` if the encoder cannot read images of this shape."""
    settings = encoder.get_config()
    fixed = "image_size" in settings and settings.get("interpolation") is None
    size = tuple(settings["image_size"]) if fixed else tuple(image_shape[:2])
    wanted = (*size, settings["channels"])
    if wanted != tuple(image_shape):
        raise UserError(
            "`--run.init_from` must hold an encoder for the images of `--data.name`, "
            f"shape {tuple(image_shape)}. Received: one for {wanted}. Set "
            "--data.image_size, or convert it with positions that are interpolated."
        )
