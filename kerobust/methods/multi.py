"""Multi: an encoder whose class and patch tokens withstand several attacks at once."""

import tensorflow as tf

from kerobust.attacks import BALLS, PGD, UnionBall
from kerobust.data import Split
from kerobust.losses.similarity import cosine_similarity, spread
from kerobust.methods.adversaries import (
    TYPES,
    Adversaries,
    Adversary,
    TokenShift,
    joined,
    token_distances,
)
from kerobust.methods.base import Batch, linear_ramp
from kerobust.methods.frozen_teacher import FrozenTeacher
from kerobust.methods.head_adversaries import HeadError, read_heads
from kerobust.methods.multi_config import MultiConfig
from kerobust.methods.multipliers import Multipliers
from kerobust.methods.start import Length, encoder_of
from kerobust.methods.teacher import (
    average_pairs,
    frozen_copy,
    move_averages,
    move_statistics,
    statistic_pairs,
)
from kerobust.methods.whitening import Whitening
from kerobust.randomness import fold_in
from kerobust.types import Tokens


class Multi(FrozenTeacher):
    """Keeps attacked tokens at a frozen teacher's, and clean ones within a margin.

    With d_t(x) the squared distance of the student's tokens of type t (class token;
    patches, their mean) to the teacher's clean ones and n_t(x) the square of the
    latter, both divided by the width D, and d the mean of both d_t:

    L = mean d(x') + sum over t of mean lambda_t(x) (d_t(x) - rho_t n_t(x))

    x' comes from `Adversaries`. lambda_t(x) = softplus(MLP(f_T(x)_cls))_t is a constant
    here; after every `dual_every` updates its weights make a step up the second term,
    as the student then is in inference mode. `scalar` has one lambda_t for all images.
    `fixed` adds weight * mean d_t(x), without margins; `none` adds nothing: FARE's loss
    divided by D if the class token is all that is trained.

    With `distance=whitened` all squares are those of tokens in units of the spread of
    the teacher's clean ones, see `Whitening`.

    All radii rise linearly over the first `warmup_share` of the updates. The export is
    a moving average of the student's weights (of batch norm's statistics too) that
    starts where the student does: early on it is still close to the teacher.

    Args:
        student, teacher, config: See `FrozenTeacher`; `MultiConfig`.
        steps: Number of updates of the training.
        seed: Seed of the drawn attacks.
        heads: Predictors whose heads are attacked too, see `HeadError`.

    References:
        Khodabandeh et al., LORE, 2025, arXiv:2505.18884 (loss, multipliers, rates);
        Tramer & Boneh, 2019, arXiv:1904.13000 (average, maximum); Maini et al., 2020,
        arXiv:1909.04068 (msd).

    Differences:
        From LORE: squares are divided by the width, patches count as much as the class
        token and have a constraint of their own, the attack is one of several, its
        radius warms up, averaged weights are exported. "maximum" compares distances,
        which labels do not enter.
    """

    TERMS = ("adversarial", "cls_constraint", "patches_constraint")
    MEASURES = (
        *("clean_similarity", *FrozenTeacher.MEASURES, "radius_share"),
        *("cls_drift", "patches_drift", "cls_violated", "patches_violated"),
        *("cls_multiplier", "patches_multiplier"),
    )
    SECTION = "multi"
    config: MultiConfig

    def __init__(
        self, student, teacher, config, steps: int, seed: int = 0, heads=(), **kwargs
    ):
        super().__init__(student, teacher, config, **kwargs)
        self.warmup_steps = round(config.warmup_share * steps)
        chances = {**config.chances, HeadError.part: config.head_chance}
        self.whitening = None
        if config.distance == "whitened":
            self.whitening = Whitening(teacher.width, config.shrinkage)
        white = self.whitening
        ways: list = [(TokenShift(student, part, white), PGD) for part in config.parts]
        attacked = [HeadError(student, head) for head in heads]
        ways += [(objective, objective.kind) for objective in attacked]
        self.attack = Adversaries(
            [
                Adversary(search, objective, chances[objective.part])
                for objective, kind in ways
                for search in config.searches(kind)
            ],
            config.combine,
            TokenShift(student, config.tokens, white),
            seed,
        )
        radii = config.radii
        self.ball = BALLS[config.norms[0]] if len(radii) == 1 else UnionBall(radii)
        self.rho = {"cls": config.rho_cls, "patches": config.rho_patches}
        self.multipliers = None
        if config.constraint != "none":
            self.multipliers = Multipliers(
                config.constraint,
                len(config.types),
                teacher.width,
                width=config.dual_width,
                rate=config.dual_rate,
                weight=config.weight,
            )
        self.average = frozen_copy(student) if config.ema else None
        self._pairs = average_pairs(self.average, student) if config.ema else []
        self._statistics = statistic_pairs(self.average, student) if config.ema else []

    @staticmethod
    def _parts(experiment, start, length: Length):
        heads = read_heads(experiment.multi.heads, encoder_of(start).width)
        return length.steps, experiment.run.seed, heads

    @property
    def exports(self):
        if self.average is None:
            return {"encoder": self.encoder}
        return {"encoder": self.average, "student": self.encoder}

    def study(self, split: Split) -> None:
        if self.whitening is not None:
            self.whitening.fit(self.teacher, split)

    def guide(self, batch: Batch) -> Batch:
        """Adds the teacher's `target_cls` [B, D], `target_patches` [B, N, D]."""
        tokens = self._tokens(self.teacher, batch["images"])
        return {**batch, **{f"target_{t}": getattr(tokens, t) for t in TYPES}}

    def perturb(self, batch: Batch) -> Batch:
        images, step = batch["images"], self.optimizer.iterations
        share = linear_ramp(step, self.warmup_steps)
        keys = fold_in(batch["keys"], "attack")
        adversarial = self.attack(images, _targets(batch), keys, step, share)
        self.measure("radius_share", share)
        for attacked in tf.unstack(adversarial, axis=1):
            self.measure("perturbation", self.ball.norm(attacked - images))
        return {**batch, "adversarial": adversarial}

    def loss_terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        targets = _targets(batch)
        clean, attacked = self._seen(batch, training)
        distances = [
            joined(self._distances(tokens, targets), self.config.tokens)
            for tokens in attacked
        ]
        for tokens in attacked:
            self.measure("adversarial_similarity", self._similarity(tokens, targets))
            self.measure("feature_spread", spread(tokens.cls))
        self.measure("clean_similarity", self._similarity(clean, targets))
        return {
            "adversarial": tf.reduce_mean(tf.stack(distances)),
            **self._constraints(clean, targets),
        }

    def _distances(self, first: Tokens, second: Tokens | None = None) -> dict:
        return token_distances(first, second, self.whitening)

    def _constraints(self, clean: Tokens, targets: Tokens) -> dict[str, tf.Tensor]:
        """Returns the term of each token type, 0 where it is not held."""
        terms = {f"{each}_constraint": tf.constant(0.0) for each in TYPES}
        squares, drifts = self._distances(targets), self._distances(clean, targets)
        for each in TYPES:
            drift = tf.math.divide_no_nan(drifts[each], squares[each])
            self.measure(f"{each}_drift", drift)
            violated = tf.cast(drift > self.rho[each], tf.float32)
            self.measure(f"{each}_violated", violated)
        if self.multipliers is None:
            return terms
        factors = tf.stop_gradient(self.multipliers(targets.cls))
        slacks = self._slacks(drifts, squares)
        for index, each in enumerate(self.config.types):
            self.measure(f"{each}_multiplier", factors[:, index])
            product = factors[:, index] * slacks[:, index]
            terms[f"{each}_constraint"] = tf.reduce_mean(product)
        return terms

    def _slacks(self, drifts: dict, squares: dict) -> tf.Tensor:
        """Returns how far each constraint is exceeded, float32 [B, K]."""
        margin = 0.0 if self.config.constraint == "fixed" else 1.0
        return tf.stack(
            [
                drifts[each] - margin * self.rho[each] * squares[each]
                for each in self.config.types
            ],
            axis=1,
        )

    def after_update(self, batch: Batch) -> None:
        if self.multipliers is not None and self.multipliers.climbing:
            due = self.optimizer.iterations % self.config.dual_every == 0
            features = batch["target_cls"]
            empty = tf.zeros([tf.shape(features)[0], self.multipliers.count])
            slacks = tf.cond(due, lambda: self._slacks_now(batch), lambda: empty)
            self.multipliers.ascend(features, slacks, due)
        if self.average is not None:
            share = tf.constant(1.0 - self.config.ema)
            move_averages(self._pairs, share)
            move_statistics(self._statistics, share)

    def _slacks_now(self, batch: Batch) -> tf.Tensor:
        targets = _targets(batch)
        clean = self._tokens(self.encoder, batch["images"])
        return self._slacks(self._distances(clean, targets), self._distances(targets))

    def _seen(self, batch: Batch, training: bool) -> tuple[Tokens, list[Tokens]]:
        """Returns the student's clean tokens and those of each attacked batch.

        All pass together. Without a constraint the clean ones are only measured: they
        pass by themselves, in inference mode.
        """
        views, keys = tf.unstack(batch["adversarial"], axis=1), batch["keys"]
        alone = self.multipliers is None
        if not alone:
            views.insert(0, batch["images"])
        keys = [fold_in(keys, index) if index else keys for index in range(len(views))]
        images, keys = (tf.concat(each, axis=0) for each in (views, keys))
        tokens = self._tokens(self.encoder, images, keys, training)
        parts = zip(*(tf.split(each, len(views)) for each in tokens), strict=True)
        seen = [Tokens(*part) for part in parts]
        if not alone:
            return seen[0], seen[1:]
        clean = self._tokens(self.encoder, batch["images"])
        return Tokens(*map(tf.stop_gradient, clean)), seen

    def _tokens(self, encoder, images, keys=None, training: bool = False) -> Tokens:
        """Returns an encoder's tokens, float32."""
        tokens = encoder(images, training=training, keys=keys)
        return Tokens(*(tf.cast(each, tf.float32) for each in tokens))

    def _similarity(self, tokens: Tokens, targets: Tokens) -> tf.Tensor:
        """Returns the cosine to the targets, joined as distances are, float32 [B]."""
        cosines = {
            "cls": cosine_similarity(tokens.cls, targets.cls),
            "patches": tf.reduce_mean(
                cosine_similarity(tokens.patches, targets.patches), axis=1
            ),
        }
        return joined(cosines, self.config.tokens)


def _targets(batch: Batch) -> Tokens:
    return Tokens(batch["target_cls"], batch["target_patches"])
