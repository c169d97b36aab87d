"""What all attacks share: checks, compilation, restarts, promises about the result."""

import warnings
import weakref
from collections.abc import Callable

import tensorflow as tf

# The public API cannot pause whatever tapes the caller has open.
from tensorflow.python.eager import record

from kerobust.attacks import checks
from kerobust.attacks.arguments import any_batch, as_tensors, spread
from kerobust.attacks.balls import BALLS, NormBall, canonical_norm, per_example
from kerobust.attacks.candidates import Candidate
from kerobust.attacks.differentiation import differentiate
from kerobust.attacks.keywords import check_keywords
from kerobust.attacks.objectives import CrossEntropy, Objective, as_objective
from kerobust.attacks.tracing import traced
from kerobust.attacks.weak import WeakIdentityCache
from kerobust.distribute import over_replicas, sharing_replicas
from kerobust.randomness import example_keys, fold_in
from kerobust.types import AttackInfo

_RETRACES = 6
_SETTINGS = (
    *("epsilon", "norm", "step_size", "random_start"),
    *("restarts", "keep", "skip_misclassified", "stop_when_fooled"),
    *("precision", "seed"),
)


@tf.keras.saving.register_keras_serializable("kerobust")
class Attack(tf.keras.layers.Layer):
    """Base: looks for images near the given ones at which an objective is large.

    A layer without weights. For every subclass the result is float32, inside ball and
    [0, 1], equal to the input bit for bit where epsilon is 0, and cut off from
    gradients. The victim is called in inference mode, never changed and never owned.
    With `keys` an example's result depends neither on its batch mates nor their order.

    Call it in eager code, in a `train_step` before the tape, or in a functional model;
    to save a model with its victim use `Attacked`. Called eagerly in the scope of a
    `MirroredStrategy` it shares the rows out over the replicas. It compiles once per
    victim (by identity), image shape and target structure; a lambda built anew for each
    call compiles each time.

    Args:
        epsilon: Radius of the ball, pixel units of images in [0, 1]. None = 8/255 for
            linf; for l2 and l1 it must be given, here or in the call.
        norm: "linf", "l2" or "l1"; also np.inf, 2, 1, "Linf", "L2".
        step_size: Length of a step in the norm, pixel units; None = the attack's rule.
        random_start: Whether the search starts at a random point of the ball.
        restarts: Number of random starts; more than one needs `random_start`.
        keep: "last": the last point of each search; "best": the best of all its points
            (fooled first, then largest value), at the cost of one more forward. None =
            "last" for one restart, else "best". Restarts compete in the same order.
        skip_misclassified: Whether examples that fool the victim without attack are
            returned as they are; for evaluation. Costs one forward.
        stop_when_fooled: Whether an example leaves a search, and the batch, as soon as
            it fools the victim: the same success up to rounding, smaller loss, less
            work. For evaluation; sets keep="best" and needs precision="float32".
        precision: Of the victim in the search: "float32", or "bfloat16", faster on CPUs
            that have it (see `kerobust.attacks.precision`) and somewhat weaker. Images
            stay float32; restarts are compared, and the result is judged, in float32.
        seed: int: without `keys`, row i gets the same noise in every call; None: fresh
            noise from TensorFlow's global generator.
        **kwargs: Keras' `name` and `trainable`.

    Call arguments:
        images: floating [B, H, W, C] in [0, 1].
        targets: Any nest of tensors with leading B, such as labels int [B]. None = what
            the victim predicts (one forward), for classification objectives only.
        victim: `Objective`, or a callable that maps images to logits [B, K], attacked
            through `default_objective`. A plain function with Python control flow on
            tensors needs `tf.function`; Keras models do not.
        epsilon, step_size: Scalar or [B], instead of the constructor's.
        keys: int32 [B, 2], randomness of each example, see `kerobust.randomness`.
        return_info: Whether to return `AttackInfo` too; may cost one more forward.

    Returns:
        float32 [B, H, W, C], or (that, `AttackInfo`).

    Raises:
        ValueError, TypeError: For arguments out of range or unknown.
    """

    # Of a victim that is not an objective.
    default_objective: Callable[..., Objective] = CrossEntropy

    def __init__(
        self,
        epsilon: float | None = None,
        *,
        norm: str = "linf",
        step_size: float | None = None,
        random_start: bool = False,
        restarts: int = 1,
        keep: str | None = None,
        skip_misclassified: bool = False,
        stop_when_fooled: bool = False,
        precision: str = "float32",
        seed: int | None = None,
        **kwargs,
    ):
        check_keywords(type(self), kwargs)
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.norm = canonical_norm(norm)
        self.epsilon = checks.default_radius(epsilon, self.norm)
        checks.check_radius("step_size", step_size)
        checks.check_starts(restarts, random_start)
        best = stop_when_fooled or restarts > 1
        self.keep = keep or ("best" if best else "last")
        checks.check_mode(self.keep, precision, stop_when_fooled)
        self.step_size = None if step_size is None else float(step_size)
        self.random_start = random_start
        self.restarts = int(restarts)
        self.skip_misclassified = skip_misclassified
        self.stop_when_fooled = stop_when_fooled
        self.precision = precision
        self.seed = seed
        self._functions = WeakIdentityCache()  # objective -> kind of call -> function
        self._objectives_seen = 0

    @property
    def ball(self) -> NormBall:
        """The norm ball of the attack."""
        return BALLS[self.norm]

    def __call__(self, images, targets=None, victim=None, **options):
        checks.check_order(images, targets)
        if not hasattr(images, "dtype"):
            images = tf.convert_to_tensor(images)
        checks.check_images(images)
        most = self.ball.largest(tf.TensorShape(images.shape[1:]).num_elements())
        epsilon = options.get("epsilon")
        epsilon = self.epsilon if epsilon is None else epsilon
        checks.check_given(epsilon, self.norm)
        checks.check_radius("epsilon", epsilon, most, self.norm)
        checks.check_radius("step_size", options.get("step_size"))
        # Said explicitly it holds for every layer below; inside `fit`, Keras would lend
        # the victim's layers the flag of the surrounding call.
        options["training"] = False
        return super().__call__(images, targets, victim, **options)

    def call(
        self,
        images,
        targets=None,
        victim=None,
        *,
        epsilon=None,
        step_size=None,
        keys=None,
        return_info=False,
        training=False,
    ):
        objective = as_objective(victim, self.default_objective)
        arguments = self._arguments(images, targets, epsilon, step_size, keys)
        # Tracing needs tapes, running must not meet any: an outer tape would make the
        # loop store all that its backward pass might need.
        run = self._compiled(objective, arguments, return_info)
        with record.stop_recording():
            adversarial, info = run(*arguments)
        adversarial.set_shape(images.shape)
        return (adversarial, AttackInfo(*info)) if return_info else adversarial

    def get_config(self):
        config = super().get_config()
        config.pop("dtype")  # Always float32.
        return config | {name: getattr(self, name) for name in _SETTINGS}

    def _search(self, images, start, targets, objective, epsilon, step_size, keys):
        """Returns the `Candidate` that one search from `start` finds.

        Subclasses write this with one `tf.while_loop`; it runs inside a `tf.function`.

        Args:
            images, start: float32 [B, H, W, C], the clean images and a legal start.
            targets: Nest of tensors with leading B.
            objective: `Objective`.
            epsilon, step_size: float32 [B].
            keys: int32 [B, 2], keys of this search; the random start was drawn from
                them as they are, so fold in a word before drawing more.
        """
        raise NotImplementedError

    def _start(self, images, epsilon, keys, restart):
        """Returns where search number `restart`, int scalar, starts if at random."""
        noise = self.ball.sample(keys, images.shape[1:], epsilon)
        return self._legal(images, images + noise, epsilon)

    def _better(self, images, best, other):
        """Returns per example the better of the results of two searches."""
        return best.or_better(other)

    def _differentiated(self, index, adversarial, targets, objective):
        """Returns the gradient of each example's value, and the judged candidate."""
        given = (adversarial, targets, objective, self.precision)
        gradient, values, fooled = differentiate(*given)
        if self.precision != "float32":  # Success is believed in float32 only.
            fooled = tf.zeros_like(fooled)
        here = Candidate.after(adversarial, index)
        return gradient, here._replace(values=values, fooled=fooled)

    def _default_step_size(self, epsilon):
        """Returns the step size for epsilon float32 [B] if the caller gave none."""
        return epsilon

    def _legal(self, images, adversarial, epsilon):
        """Returns `adversarial` moved into the ball around `images` and into [0, 1]."""
        moved = self.ball.confine(adversarial, self.ball.room(images, epsilon))
        return tf.cond(
            tf.reduce_all(epsilon > 0),
            lambda: moved,
            lambda: tf.where(per_example(epsilon > 0, images), moved, images),
        )

    @tf.autograph.experimental.do_not_convert
    def _arguments(self, images, targets, epsilon, step_size, keys):
        """Returns all tensors of a call in the form that one trace can serve."""
        images = tf.cast(images, tf.float32)
        rows = tf.shape(images)[0]
        given = self.epsilon if epsilon is None else epsilon
        epsilon = spread("epsilon", given, images)
        step_size = self.step_size if step_size is None else step_size
        if step_size is None:
            step_size = self._default_step_size(epsilon)
        step_size = spread("step_size", step_size, images)
        targets = as_tensors(targets)
        keys = self._draw_keys(rows) if keys is None else tf.cast(keys, tf.int32)
        for name, value in (("targets", targets), ("keys", keys)):
            for tensor in tf.nest.flatten(value):
                checks.check_rows(name, tensor, images)
        return images, targets, epsilon, step_size, keys

    def _draw_keys(self, rows):
        if self.seed is not None:
            return example_keys(self.seed, 0, tf.range(rows))
        low, high = tf.int32.min, tf.int32.max
        return tf.random.uniform([rows, 2], low, high, dtype=tf.int32)

    @tf.autograph.experimental.do_not_convert
    def _compiled(self, objective, arguments, return_info):
        """Returns the compiled attack on an objective for calls of this kind.

        Keras lets AutoGraph convert `call`, but what is here it leaves alone.
        """
        known = len(self._functions)
        functions = self._functions.get(objective, dict)
        if len(self._functions) > known:
            self._objectives_seen += 1
            self._warn_of_retracing()
        signature = tf.nest.map_structure(any_batch, arguments)
        replicas = sharing_replicas(arguments[0].shape[0])
        key = repr((signature, return_info, replicas, self.get_config()))
        if key not in functions:
            alive = weakref.ref(objective)

            def run(images, targets, epsilon, step_size, keys):
                given = (images, targets, epsilon, step_size, keys)
                return self._run(alive(), return_info, *given)

            shared = run if replicas == 1 else over_replicas(run)
            functions[key] = traced(shared, signature)
        run = functions[key].get_concrete_function(*arguments)
        objective.check_targets(arguments[1])  # By now it has seen its outputs' shape.
        return run

    def _warn_of_retracing(self):
        freed = self._objectives_seen - len(self._functions)
        if freed == _RETRACES - 1:
            warnings.warn(
                f"`victim` is object {_RETRACES} that attack {self.name} compiles for, "
                "and the earlier ones are gone: every call compiles anew. Make the "
                "lambda, function or Objective once, outside the loop.",
                stacklevel=2,
            )

    def _run(self, objective, return_info, images, targets, epsilon, step_size, keys):
        guess = isinstance(targets, tuple) and not targets
        outputs = None
        if guess or self.skip_misclassified:
            outputs = objective.outputs(images)
        if guess:
            targets = objective.predictions(outputs)
        given = (targets, objective, epsilon, step_size, keys)
        found = self._best_search(images, *given)
        found = found._replace(images=self._legal(images, found.images, epsilon))
        if return_info:
            found = found.assessed(objective, targets)
        if self.skip_misclassified:
            if objective.fooled(outputs, targets) is None:
                raise TypeError(
                    "`skip_misclassified` needs an objective that knows success. "
                    f"Received: {type(objective).__name__}, whose `fooled` is None."
                )
            clean = Candidate.after(images, 0).judged(objective, outputs, targets)
            found = found.unless(clean.fooled, clean)
        norm = self.ball.norm(found.images - images)
        info = (found.fooled, found.values, norm, found.steps) if return_info else ()
        return tf.nest.map_structure(tf.stop_gradient, (found.images, info))

    def _best_search(self, images, targets, objective, epsilon, step_size, keys):
        """Returns the best `Candidate` of all restarts."""

        def search(restart):
            restart_keys, start = fold_in(keys, restart), images
            if self.random_start:
                start = self._start(images, epsilon, restart_keys, restart)
            given = (targets, objective, epsilon, step_size, restart_keys)
            found = self._search(images, start, *given)
            if self.precision != "float32":  # What it says of itself is not exact.
                found = found._replace(values=None, fooled=None)
            return found

        def step(restart, best):
            found = search(restart).assessed(objective, targets)
            return restart + 1, self._better(images, best, found)

        restarts = self.restarts if self.random_start else 1
        if restarts == 1:
            return search(0)
        return tf.while_loop(
            lambda restart, _: restart < restarts,
            step,
            (0, Candidate.worst(images)),
            parallel_iterations=1,
            maximum_iterations=restarts,
        )[1]
