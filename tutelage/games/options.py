"""Options in an address: `name?width=20&seed=3`. Which there are, and of what kind, the signature of the maker says."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin

from tutelage.games.spec import GameError

Made = TypeVar("Made")


def parse(query: str, address: str) -> dict[str, str]:
    """name=value, joined by &. Raises GameError for anything else."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    for key, separator, value in pairs:
        if not (key and separator and value):
            raise GameError(f"{address}: {key!r} is no option; name=value, joined by &, was expected after the question mark")
    return {key: value for key, _, value in pairs}


def build(maker: Callable[..., Made], name: str, options: Mapping[str, Any], address: str, elsewhere: Sequence[str] = ()) -> Made:
    """maker(**options), each value read as the kind of its parameter.

    elsewhere: options that `name` has besides. Raises GameError for an option that is unknown, naming the nearest, or of a wrong kind.
    """
    parameters = inspect.signature(maker, eval_str=True).parameters
    for key in options:
        if key not in parameters:
            known = [*parameters, *elsewhere]
            raise GameError(f"{address}: {name} has no option {key}; did you mean {get_close_matches(key, known, n=1, cutoff=0.0)[0]}?")
    return maker(**{key: value_of(parameters[key].annotation, value, key, address) for key, value in options.items()})


def value_of(kind: Any, value: Any, key: str, address: str) -> Any:
    """The value as an int, float or str, or as one of a Literal's. Raises GameError saying what was expected."""
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        if str(value) in choices:
            return str(value)
        nearest = get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
        raise GameError(f"{address}: {key}={value} was given; {' or '.join(choices)} was expected; did you mean {nearest}?")
    try:
        return kind(value)
    except (TypeError, ValueError):
        expected = "a whole number" if kind is int else "a number"
        raise GameError(f"{address}: {key}={value} was given; {expected} was expected") from None
