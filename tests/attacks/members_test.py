"""The members of AutoAttack and the versions that they make up."""

from kerobust.attacks.members import make_attempts, restarts_of


def test_versions_are_those_of_the_original():
    def counts(version, norm):
        attempts = make_attempts(restarts_of(version, norm), 0.1, norm, 10)
        names = dict.fromkeys(attempt.name for attempt in attempts)
        return {name: sum(a.name == name for a in attempts) for name in names}

    usual = {"apgd-ce": 1, "apgd-t": 9, "fab-t": 9, "square": 1}
    assert counts("standard", "linf") == counts("standard", "l2") == usual
    assert list(counts("standard", "linf")) == list(usual)
    assert counts("standard", "l1") == usual | {"apgd-ce": 5, "apgd-t": 5}
    assert counts("plus", "linf") == {
        **{"apgd-ce": 5, "apgd-dlr": 5, "fab": 5, "square": 1},
        **{"apgd-t": 9, "fab-t": 9},
    }
    assert counts("rand", "linf") == {"apgd-ce": 1, "apgd-dlr": 1}
    radii = make_attempts({"apgd-t": 1}, 1.0, "l1", 10)[0].attack.radii
    assert radii == (3.0, 2.0, 1.0)


def test_attempts_of_a_member_share_what_is_compiled():
    attempts = make_attempts({"apgd-t": 1, "fab": 3}, 0.1, "linf", 10)

    assert len({id(attempt.attack) for attempt in attempts[:9]}) == 1
    # FAB starts at the image once, then at random.
    starts = [attempt.attack.random_start for attempt in attempts[9:]]
    assert starts == [False, True, True]
