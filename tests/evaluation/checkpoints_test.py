"""Published CIFAR-10 networks are as accurate, clean and attacked, as published.

Clean accuracies are those of the authors: github.com/akamaster/pytorch_resnet_cifar10
and github.com/shizhouxing/ViT_vnncomp2023. Accuracies under PGD were measured with
another implementation and stand in the data folder's README.
"""

import functools

import numpy as np
import pytest

from kerobust.attacks import PGD
from kerobust.attacks.precision import PRECISIONS
from kerobust.attacks.victim import Victim
from tests.models.published import cifar10_test, resnet20, vit

pytestmark = pytest.mark.data

NETWORKS = {
    "resnet20": resnet20,
    "vit_pgd": lambda folder: vit(folder, "pgd_2_3_16", patch_size=16, depth=2),
    "vit_ibp": lambda folder: vit(folder, "ibp_3_3_8", patch_size=8, depth=3),
}
BATCH = 250
VIT_ATTACKS = {
    precision: PGD(steps=20, random_start=False, precision=precision)
    for precision in PRECISIONS
}


@pytest.fixture(scope="module")
def examples(data_folder):
    return cifar10_test(data_folder)


@pytest.fixture(scope="module")
def networks(data_folder):
    """Returns what builds a network at its first use: attacks compile once for it."""
    return functools.cache(lambda name: NETWORKS[name](data_folder))


def batches(count):
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


def correct(network, images, labels):
    """Returns how many of the images are classified as labelled."""
    victim = Victim(network)
    found = [victim.predictions(images[part]) for part in batches(len(images))]
    return int(np.sum(np.concatenate(found) == labels))


def attacked(network, images, labels, attack, **options):
    """Returns adversarial images after checking that they are legal."""
    adversarial = np.concatenate(
        [
            attack(images[part], labels[part], network, **options).numpy()
            for part in batches(len(images))
        ]
    )
    epsilon = options.get("epsilon", attack.epsilon)
    assert 0.9 * epsilon < np.abs(adversarial - images).max() <= epsilon + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    return adversarial


@pytest.mark.parametrize(
    ("name", "published"),
    [
        pytest.param("resnet20", 91.73, marks=pytest.mark.slow),
        ("vit_pgd", 59.78),
        ("vit_ibp", 62.21),
    ],
)
def test_clean_accuracy_is_the_published_one(networks, name, published, examples):
    images, labels = examples

    found = correct(networks(name), images, labels)

    # All 10,000 images; two may lie on an edge that rounding moves.
    assert len(labels) == 10_000
    assert found == pytest.approx(100 * published, abs=2)


@pytest.mark.parametrize(
    ("name", "epsilon", "measured", "precision"),
    [
        ("vit_pgd", 1 / 255, 55.5, "float32"),
        ("vit_pgd", 2 / 255, 48.5, "float32"),
        ("vit_pgd", 8 / 255, 12.8, "float32"),
        ("vit_ibp", 1 / 255, 52.4, "float32"),
        ("vit_ibp", 2 / 255, 43.2, "float32"),
        ("vit_ibp", 8 / 255, 4.6, "float32"),
        ("vit_pgd", 2 / 255, 48.5, "bfloat16"),
        ("vit_ibp", 1 / 255, 52.4, "bfloat16"),
    ],
)
def test_pgd_leaves_transformers_the_measured_accuracy(
    networks, name, epsilon, measured, precision, examples
):
    images, labels = (part[:1000] for part in examples)
    network = networks(name)

    adversarial = attacked(
        network,
        images,
        labels,
        VIT_ATTACKS[precision],
        epsilon=epsilon,
        step_size=epsilon / 4,
    )

    # Half a point of 1,000 images.
    assert correct(network, adversarial, labels) == pytest.approx(10 * measured, abs=5)


@pytest.mark.slow
def test_pgd_leaves_the_undefended_network_no_accuracy(networks, examples):
    images, labels = (part[:500] for part in examples)
    network = networks("resnet20")
    attack = PGD(8 / 255, steps=10, step_size=2 / 255, random_start=False)

    adversarial = attacked(network, images, labels, attack)

    # Measured: 0.0 % of 500 images; half a point is 2.5 of them.
    assert correct(network, adversarial, labels) <= 2
