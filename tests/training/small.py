"""A training small enough for tests: linear regression with two loss terms."""

import hashlib

import tensorflow as tf

from kerobust.distribute import replica_count
from kerobust.training.fit import RunConfig, fit
from kerobust.training.optimizers import AdamW
from kerobust.training.schedules import WarmupCosine

STEPS = 12
BATCH = 8


class Small(tf.keras.Model):
    """What `fit` asks of a method: terms, running means, one update per step.

    Args:
        bad_step: Step (from 1) whose `penalty` is not a number; None = none.
    """

    TERMS = ("error", "penalty")

    def __init__(self, width=3, bad_step=None):
        super().__init__()
        start = tf.keras.initializers.GlorotUniform(seed=1)
        self.hidden = tf.keras.layers.Dense(width, "tanh", kernel_initializer=start)
        self.top = tf.keras.layers.Dense(1, kernel_initializer=start)
        names = ("loss", *self.TERMS, "attack_seconds")
        self.means = {name: tf.keras.metrics.Mean(name=name) for name in names}
        self.bad_step = bad_step

    @property
    def metrics(self):
        return list(self.means.values())

    def call(self, images):
        return self.top(self.hidden(images))[:, 0]

    def train_step(self, data):
        images, targets = data
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(self(images) - targets))
            penalty = 1e-3 * tf.nn.l2_loss(self.top.kernel)
            if self.bad_step is not None:
                bad = self.optimizer.iterations + 1 == self.bad_step
                penalty = tf.where(bad, float("nan"), penalty)
            loss = error + penalty
            scaled = loss / replica_count()
        self.optimizer.minimize(scaled, self.trainable_variables, tape=tape)
        values = {"loss": loss, "error": error, "penalty": penalty}
        for name, value in {**values, "attack_seconds": 1e-6}.items():
            self.means[name].update_state(value)
        return {name: mean.result() for name, mean in self.means.items()}


def make_small(steps=STEPS, rate=0.1, optimizer=None, **options) -> Small:
    method = Small(**options)
    method(tf.zeros([1, 4]))
    rate = WarmupCosine(rate, 2, steps)
    method.compile(optimizer=optimizer or AdamW(rate, weight_decay=0.1))
    method.optimizer.build(method.trainable_variables)
    return method


def make_batches(steps=STEPS):
    """Returns `batches(start_step)`: batch s is a function of s alone."""

    def batch(step):
        images = tf.random.stateless_uniform([BATCH, 4], [7, step])
        return images, tf.sin(tf.reduce_sum(images, axis=1))

    return lambda start: tf.data.Dataset.range(start, steps).map(batch)


def run_config(**changes) -> RunConfig:
    return RunConfig(**{"checkpoint_steps": 4, "log_steps": 2, **changes})


def fit_small(folder, method=None, steps=STEPS, run=None, **options):
    """Returns (method, what `fit` returned)."""
    method = method or make_small(steps)
    options = {"batches": make_batches(steps), "digest": "digest", **options}
    fitted = fit(
        method,
        options.pop("batches"),
        steps=steps,
        batch_size=BATCH,
        folder=folder,
        run=run or run_config(),
        **options,
    )
    return method, fitted


def state_digest(method) -> str:
    """Returns the SHA-256 of all weights, slots and the step."""
    digest = hashlib.sha256()
    for variable in [*method.trainable_variables, *method.optimizer.variables]:
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()
