"""MORA: what masks gradients from others falls, by the ensemble's own answer."""

import numpy as np
import pytest

from kerobust.attacks import PGD, AutoAttack, AutoPGD, DecayingPGD, Mora
from kerobust.attacks.attempts import run_attempts
from kerobust.attacks.mora import mora_attempts
from kerobust.attacks.victim import Victim
from tests.attacks.ensembles import EPSILON, grey, planes


@pytest.mark.parametrize("combine", ["probabilities", "logits", "votes"])
def test_masked_gradients_stop_others_but_not_mora(combine):
    ensemble = planes(combine)
    images, labels = grey()
    victim = Victim(ensemble)
    options = {"steps": 20, "random_start": False}

    stuck = PGD(EPSILON, **options)(images, labels, victim)
    lost = AutoPGD(EPSILON, **options)(images, labels, victim)
    report = Mora(EPSILON, steps=6).evaluate(
        *(ensemble, images, labels), diagnose=False, return_adversarial=True
    )

    # Softmax of a thousand, and votes, have a gradient of exactly 0 in float32.
    np.testing.assert_array_equal(stuck, images)
    np.testing.assert_array_equal(lost, images)
    assert report.clean_accuracy == 1 and report.robust_accuracy == 0
    found = np.argmax(ensemble(report.adversarial), axis=1)
    np.testing.assert_array_equal(found, report.predictions)
    assert (found != labels).all()
    change = report.adversarial - images
    assert np.abs(change).max() <= EPSILON + 1e-6
    assert report.adversarial.min() >= 0 and report.adversarial.max() <= 1


def test_random_starts_of_that_size_fool_nobody():
    images, labels = grey()
    ensemble = planes("votes")

    noisy = PGD(EPSILON, steps=5, seed=0)(images, labels, Victim(ensemble))

    assert np.abs(noisy - images).max() > 0.9 * EPSILON
    assert (np.argmax(ensemble(noisy), axis=1) == labels).all()


@pytest.mark.slow
def test_every_balance_is_tried_in_order_on_what_still_stands():
    class Half(DecayingPGD):
        """Gives up on all but the first of what it is shown."""

        def __call__(self, images, targets, victim, **options):
            tried.append((victim.balance, len(images)))
            found = super().__call__(images, targets, victim, **options).numpy()
            found[1:] = images[1:]
            return found

    tried: list = []
    images, labels = grey()
    attack = Half(EPSILON, steps=6, stop_when_fooled=True)
    given = (Victim(planes("votes")), images, labels, np.arange(8), 0, EPSILON)

    found = run_attempts(mora_attempts(attack, 18.0), *given)

    balances = (0.5, 0.0, 0.25, 0.75, 1.0)
    assert tried == list(zip(balances, (8, 7, 6, 5, 4), strict=True))
    np.testing.assert_array_equal(found.broken_by, [0, 1, 2, 3, 4, -1, -1, -1])


def test_results_do_not_depend_on_the_batch_size():
    images, labels = grey()
    suite, ensemble = Mora(0.02, steps=4), planes("votes")  # Enough for some.

    whole = suite.evaluate(ensemble, images, labels, diagnose=False)
    parts = suite.evaluate(ensemble, images, labels, diagnose=False, batch_size=3)

    assert whole.suite == {"version": "mora", "steps": 4, "seed": 0}
    assert list(whole.members) == [
        *("mora-0.5", "mora-0", "mora-0.25", "mora-0.75", "mora-1")
    ]
    np.testing.assert_array_equal(whole.broken_by, parts.broken_by)


def test_a_model_that_is_no_ensemble_is_refused():
    images, labels = grey()

    members = planes("votes").members
    message = (
        "`model` must be a kerobust.models.Ensemble or an object that has its "
        r"member_logits, combined, combine; Ensemble\(\[first, second\]\) makes one"
    )

    with pytest.raises(TypeError, match=message):
        Mora(EPSILON).evaluate(members[0], images, labels)
    with pytest.raises(TypeError, match=message):
        Mora(EPSILON).evaluate(list(members), images, labels)
    with pytest.raises(TypeError, match=r"`model` must be callable.*model=\["):
        AutoAttack(EPSILON).evaluate(list(members), images, labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"epsilon": 8.0}, "`epsilon`"), ({"epsilon": 0.1, "steps": 0}, "`steps`")],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Mora(**given)
