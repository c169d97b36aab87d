"""Arguments under the names that other libraries give them."""

import inspect

from kerobust.config import suggestion

_KERAS = ("name", "trainable")

# Name elsewhere -> name here.
_ELSEWHERE = {
    **dict.fromkeys(("eps", "radius", "max_norm"), "epsilon"),
    **dict.fromkeys(
        ("alpha", "eps_step", "eps_iter", "step", "stepsize", "lr"), "step_size"
    ),
    **dict.fromkeys(
        ("nb_iter", "n_iter", "max_iter", "num_iter", "iterations", "num_steps"),
        "steps",
    ),
    **dict.fromkeys(("n_queries", "num_queries", "nb_queries"), "queries"),
    **dict.fromkeys(("n_restarts", "nb_restarts", "num_random_init"), "restarts"),
    **dict.fromkeys(("rand_init", "random_init", "rand_start"), "random_start"),
    **dict.fromkeys(("ord", "p"), "norm"),
}

# Name elsewhere -> how the same is said here.
_OTHERWISE = {
    "targeted": "Attack with TargetedCrossEntropy(model) as victim; the targets are "
    "then the classes to reach.",
    **dict.fromkeys(
        ("loss", "loss_fn"), "Pass an objective, such as DLR(model), as victim."
    ),
}


def check_keywords(attack: type, given: dict) -> None:
    """Raises a `TypeError` about arguments that neither an attack nor Keras knows.

    Args:
        attack: Class of the attack.
        given: What is left over for Keras.
    """
    unknown = [name for name in given if name not in _KERAS]
    if not unknown:
        return
    word = unknown[0]
    known = sorted(_parameters(attack))
    meant = _ELSEWHERE.get(word)
    near = f' Did you mean "{meant}"?' if meant in known else suggestion(word, known)
    raise TypeError(
        f"`{word}` must be an argument of {attack.__name__}, one of: "
        f"{', '.join(known)}. Received: {word}={given[word]}. "
        f"{_OTHERWISE.get(word, '') or near.strip()}".rstrip()
    )


def _parameters(attack: type) -> set[str]:
    """Returns the names that the constructors of a class and its bases take."""
    found = set(_KERAS)
    for kind in attack.__mro__:
        if kind.__module__.startswith("keras"):
            break
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        found |= {each.name for each in parameters if each.kind != each.VAR_KEYWORD}
    return found - {"self"}
