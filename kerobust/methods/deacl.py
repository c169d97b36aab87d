"""DeACL: a robust copy of an encoder, without labels."""

import dataclasses

import tensorflow as tf

from kerobust.attacks import CosineDistance, Objective
from kerobust.config import UserError, setting
from kerobust.losses.similarity import cosine_similarity
from kerobust.methods.base import Batch
from kerobust.methods.frozen_teacher import FrozenTeacher, FrozenTeacherConfig
from kerobust.methods.teacher import frozen_copy
from kerobust.randomness import fold_in
from kerobust.types import Tokens


@dataclasses.dataclass(frozen=True)
class DeaclConfig(FrozenTeacherConfig):
    """Loss and attack of DeACL; the defaults are those of its code."""

    SECTION = "deacl"

    weight: float = setting(
        2.0, "Weight of the adversarial term (lambda; beta of ProFeAT).", low=0
    )
    attack_model: str = setting(
        "student",
        "Network that is attacked: student, or teacher (the literal wording of the"
        " benchmark paper, a weaker defence).",
        choices=("student", "teacher"),
    )
    projector: str = setting(
        "none",
        "none, or teacher: embeddings are also compared behind the frozen projector of"
        " the teacher's head (ProFeAT); its bundle must hold a head.",
        choices=("none", "teacher"),
    )
    projector_weight: float = setting(
        0.5, "Share of the comparison behind the projector.", low=0, high=1
    )

    def __post_init__(self):
        super().__post_init__()
        self.require(
            self.projector == "none" or self.tokens != "dense",
            "tokens",
            "must not be dense with --deacl.projector=teacher, which reads one vector",
            "Use --deacl.tokens=cls.",
        )


class ProjectedDistance(Objective):
    """-cos(f(x'), f(x)) - cos(p(f(x')), p(t)): the attack of ProFeAT.

    Targets are {"clean": f(x) float32 [B, D], "projected": p(t) float32 [B, E]}.
    """

    def __init__(self, embed, projector):
        super().__init__()
        self._embed, self._projector = embed, projector

    def outputs(self, images):
        features = self._embed(images)
        return features, self._projector.project(features)

    def values(self, outputs, targets):
        features, projected = outputs
        own = cosine_similarity(features, targets["clean"])
        return -own - cosine_similarity(projected, targets["projected"])


class Deacl(FrozenTeacher):
    """Distils a teacher twice: the clean image, and its attacked version.

    L = - mean cos(f_S(x), f_T(x)) - weight * mean cos(f_S(x'), f_S(x)), gradient flows
    to both arguments of the second term. x' maximises -cos(f_S(x'), f_T(x)). Both
    batches pass the student together.

    With `projector=teacher` each cosine is a weighted mean of that of the embeddings
    and that behind the teacher's frozen projector, and the attack is that of
    `ProjectedDistance`.

    References:
        Zhang et al., 2022, arXiv:2207.10899, and its code; Kowalczuk et al., 2024,
        arXiv:2407.12588 (vision transformers); Addepalli et al., ProFeAT,
        arXiv:2406.05796, and its code (projector).

    Differences:
        `tokens` other than cls are ours; dense means the cosines of class token and
        patches. The random start is clipped to [0, 1] before the first gradient.
        ProFeAT's student sees weaker augmentation than its teacher; here both see one
        view.
    """

    TERMS = ("clean", "adversarial")
    MEASURES = ("clean_similarity", *FrozenTeacher.MEASURES)
    SECTION = "deacl"
    config: DeaclConfig

    def __init__(self, student, teacher, config: DeaclConfig, head=None, **kwargs):
        super().__init__(student, teacher, config, **kwargs)
        self.attack = config.attack()
        self.projector = None if head is None else frozen_copy(head)
        attacked = student if config.attack_model == "student" else teacher

        def embed(images):
            return self.embed(attacked, images)

        if head is None:
            self.objective: Objective = CosineDistance(embed)
        else:
            self.objective = ProjectedDistance(embed, self.projector)

    @staticmethod
    def _parts(experiment, start, length):
        if experiment.deacl.projector == "none":
            return ()
        head = start.get("head") if isinstance(start, dict) else None
        if head is None:
            raise UserError(
                "`--deacl.projector=teacher` needs a teacher bundle with a head, as "
                "--method=dino writes it. Received: a bundle without one. Use "
                "--deacl.projector=none."
            )
        return (head,)

    def side_by_side(self, tokens):
        """Returns tokens of length 1: cosines of these vectors are means of theirs."""
        return super().side_by_side(
            Tokens(*(tf.math.l2_normalize(each, axis=-1) for each in tokens))
        )

    def attack_targets(self, batch: Batch):
        if self.projector is None:
            return batch["target"]
        return {
            "clean": self.embed(self.encoder, batch["images"]),
            "projected": self.projector.project(batch["target"]),
        }

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        images = tf.concat([batch["images"], batch["adversarial"]], axis=0)
        keys = tf.concat([fold_in(batch["keys"], index) for index in (0, 1)], axis=0)
        both = self.embed(self.encoder, images, training, keys)
        clean, adversarial = tf.split(both, 2)
        self.measure("clean_similarity", cosine_similarity(clean, batch["target"]))
        self.measure_adversarial(adversarial, batch["target"])
        return {
            "clean": -self._similarity(clean, batch["target"]),
            "adversarial": -self.config.weight * self._similarity(adversarial, clean),
        }

    def _similarity(self, first, second) -> tf.Tensor:
        """Returns the mean cosine of two embeddings, scalar."""
        mean = tf.reduce_mean(cosine_similarity(first, second))
        if self.projector is None:
            return mean
        share = self.config.projector_weight
        projected = map(self.projector.project, (first, second))
        return (1 - share) * mean + share * tf.reduce_mean(
            cosine_similarity(*projected)
        )
