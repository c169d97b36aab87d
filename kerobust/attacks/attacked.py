"""A victim and its attack in one model that can be saved."""

import tensorflow as tf

from kerobust.attacks.base import Attack
from kerobust.attacks.objectives import infer


@tf.keras.saving.register_keras_serializable("kerobust")
class Attacked(tf.keras.Model):
    """Attacks a victim that it owns, tracks and saves.

    An attack never owns its victim, so a victim passed as call argument does not
    survive saving. Here both do, and this is the victim's only place in the graph.

    Args:
        attack: `Attack`.
        victim: Keras layer or model that maps images to logits [B, K].

    Call arguments:
        images: floating [B, H, W, C] in [0, 1].
        targets: See `Attack`; None = the victim's predictions.

    Returns:
        dict: "adversarial" float32 [B, H, W, C], "logits" float32 [B, K] of the victim
        on them.

    Raises:
        TypeError: If `attack` or `victim` is of another kind.

    Example:
        images = tf.keras.Input([32, 32, 3])
        labels = tf.keras.Input([], dtype="int32")
        outputs = Attacked(PGD(8 / 255), classifier)(images, labels)
        tf.keras.Model([images, labels], outputs).save("attacked.keras")
    """

    def __init__(self, attack: Attack, victim: tf.keras.layers.Layer, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(attack, Attack):
            raise TypeError(f"`attack` must be an Attack. Received: attack={attack}.")
        if not isinstance(victim, tf.keras.layers.Layer):
            raise TypeError(
                "`victim` must be a Keras layer or model, so that it can be saved. "
                f"Received: victim={victim}."
            )
        self.attack = attack
        self.victim = victim

    def call(self, images, targets=None, training=None):
        adversarial = self.attack(images, targets, self.victim)
        return {"adversarial": adversarial, "logits": infer(self.victim, adversarial)}

    def get_config(self):
        serialize = tf.keras.saving.serialize_keras_object
        parts = {"attack": serialize(self.attack), "victim": serialize(self.victim)}
        return super().get_config() | parts

    @classmethod
    def from_config(cls, config):
        parts = {
            name: tf.keras.saving.deserialize_keras_object(config[name])
            for name in ("attack", "victim")
        }
        return cls(**{**config, **parts})
