"""MIMIR's attack and loss against what the paper promises."""

import numpy as np
import pytest
import tensorflow as tf

from kerobust.models.mae import pixel_mask
from kerobust.randomness import fold_in
from tests.methods.tiny import first_batch, tiny_pretraining


def visible_pixels(method, batch):
    mask = method.draw_mask(batch["keys"])
    grid, size = method.encoder.grid, method.encoder.patch_size
    return pixel_mask(1.0 - mask.removed, grid, size).numpy().astype(bool)


def test_the_gradient_on_hidden_pixels_is_exactly_zero():
    method, batch = tiny_pretraining("mimir"), first_batch()
    images = batch["images"]
    mask = method.draw_mask(batch["keys"])
    targets = {**mask._asdict(), "target": method.target(images)}

    with tf.GradientTape() as tape:
        tape.watch(images)
        values = method.objective(images, targets)
    gradient = np.abs(tape.gradient(values, images).numpy())

    visible = np.broadcast_to(visible_pixels(method, batch), gradient.shape)
    assert gradient[visible].max() > 0
    assert gradient[~visible].max() == 0


def test_the_paper_preset_perturbs_visible_pixels_only_and_stays_in_the_ball():
    method, batch = tiny_pretraining("mimir"), first_batch()

    adversarial = method.perturb(batch)["adversarial"].numpy()

    images = batch["images"].numpy()
    change = np.abs(adversarial - images)
    visible = np.broadcast_to(visible_pixels(method, batch), change.shape)
    assert change[~visible].max() == 0
    assert 0 < change[visible].max() <= 8 / 255 + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1


def test_the_repo_preset_perturbs_hidden_pixels_too():
    method, batch = tiny_pretraining("mimir", preset="repo"), first_batch()

    adversarial = method.perturb(batch)["adversarial"].numpy()

    change = np.abs(adversarial - batch["images"].numpy())
    visible = np.broadcast_to(visible_pixels(method, batch), change.shape)
    assert change[~visible].max() > 0


@pytest.mark.slow
def test_the_attack_raises_the_error_above_noise_of_its_size():
    """The start is noise in the ball; the step must add more than 5 % to its error."""
    method, batch = tiny_pretraining("mimir"), first_batch(64)
    method.compile(optimizer=tf.keras.optimizers.Adam(1e-2))
    for _ in range(30):
        method.train_step(batch)
    images, mask = batch["images"], method.draw_mask(batch["keys"])
    targets = {**mask._asdict(), "target": method.target(images)}
    keys = fold_in(batch["keys"], "attack")
    noise = method.attack.ball.sample(keys, images.shape[1:], tf.fill([64], 8 / 255))
    noisy = tf.clip_by_value(images + noise, 0, 1)

    attacked = method.objective(method.perturb(batch)["adversarial"], targets)

    clean = np.mean(method.objective(images, targets))
    gain = np.mean(attacked) - clean
    assert gain > 0
    assert gain > 1.05 * (np.mean(method.objective(noisy, targets)) - clean)


def test_the_target_is_the_clean_image():
    """With epsilon 0 MIMIR's reconstruction term is MAE's on the same weights."""
    mimir = tiny_pretraining("mimir", epsilon=0.0, weight=0.0)
    mae = tiny_pretraining("mae")
    batch = first_batch()
    mae.encoder.set_weights(mimir.encoder.get_weights())
    mae.decoder.set_weights(mimir.decoder.get_weights())

    ours = mimir.loss_terms(mimir.perturb(batch), training=True)

    theirs = mae.loss_terms(batch, training=True)
    np.testing.assert_allclose(
        ours["reconstruction"], theirs["reconstruction"], rtol=1e-6
    )
    attacked = tiny_pretraining("mimir", weight=0.0)
    attacked.encoder.set_weights(mimir.encoder.get_weights())
    attacked.decoder.set_weights(mimir.decoder.get_weights())
    seen = attacked.perturb(batch)
    shuffled = {**seen, "images": seen["images"][::-1]}
    assert not np.allclose(
        attacked.loss_terms(seen, True)["reconstruction"],
        attacked.loss_terms(shuffled, True)["reconstruction"],
    )


@pytest.mark.slow
def test_a_heavy_penalty_lowers_the_dependence():
    batch, values = first_batch(32), {}
    for weight in (1e-5, 10.0):
        tf.keras.utils.set_random_seed(0)
        method = tiny_pretraining("mimir", weight=weight, mi_batch=32)
        method.compile(optimizer=tf.keras.optimizers.Adam(3e-3))
        for _ in range(40):
            method.train_step(batch)
        seen = method.perturb(batch)
        values[weight] = float(method.loss_terms(seen, False)["dependence"]) / weight

    assert values[10.0] < values[1e-5]


def test_a_mask_keeps_the_truncated_share_and_differs_between_epochs():
    method = tiny_pretraining("mae", mae={"mask_ratio": 0.7})

    mask = method.draw_mask(first_batch()["keys"])

    # int(16 * 0.3) = 4 of 16 patches stay visible.
    assert mask.visible.shape == (16, 4)
    np.testing.assert_array_equal(np.sum(mask.removed, axis=1), 12)
    other = method.draw_mask(fold_in(first_batch()["keys"], 1))
    assert np.any(other.visible != mask.visible)


def test_pictures_show_visible_patches_unchanged():
    method, batch = tiny_pretraining("mimir"), first_batch(4)

    pictures = method.pictures(batch)

    assert list(pictures) == [
        "clean",
        "adversarial",
        "perturbation",
        "masked",
        "reconstruction",
    ]
    visible = np.broadcast_to(visible_pixels(method, batch), [4, 8, 8, 3])
    seen = pictures["adversarial"].numpy()
    np.testing.assert_array_equal(
        pictures["reconstruction"].numpy()[visible], seen[visible]
    )
    np.testing.assert_array_equal(pictures["masked"].numpy()[~visible], 0.5)
