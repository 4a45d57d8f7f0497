"""Games of one's own: `py:module:Class` or `py:module:Class?name=value`, where Class is a `Game` or a `gymnasium.Env`."""

import importlib
import importlib.util
import inspect
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tutelage.games import options as address_options
from tutelage.games.spec import Game, GameError


def make_program(path: str, copies: int, **options: Any) -> Game:
    """path: "module:Class". A Game is made as Class(copies=copies, **options), a gymnasium.Env as Class(**options) per copy.

    Options after a question mark are read as what their defaults are: whole numbers, numbers, 0 or 1 for no or yes, else text.
    The module is looked up as Python does, and then in the working directory. Raises GameError with what is wrong.
    """
    address = f"py:{path}"
    path, _, query = path.partition("?")
    module_name, separator, class_name = path.partition(":")
    if not (separator and module_name and class_name):
        raise GameError(f"{address} does not name a class; py:module:Class is expected")
    kind = _load_class(module_name, class_name, address)
    options = _read(kind, query, address) | options
    try:
        if issubclass(kind, Game):
            return _make_own(kind, copies, options, address)
        # Without Gymnasium nothing can be a gymnasium.Env; a class that is one has imported it.
        gymnasium: Any = sys.modules.get("gymnasium")
        if gymnasium is not None and issubclass(kind, gymnasium.Env):
            from tutelage.games.gymnasium import GymnasiumGame

            return GymnasiumGame(lambda: kind(**options), copies, address)
    except TypeError as error:
        raise GameError(f"{address} cannot be made with the options {options}: {error}") from error
    raise GameError(f"{address} is neither a tutelage.games.spec.Game nor a gymnasium.Env")


def look_here(module_name: str) -> None:
    """Let Python find a module in the working directory that it finds nowhere else.

    A console script starts without that directory on its path, `python file.py` with it.
    """
    if importlib.util.find_spec(module_name.partition(".")[0]) is None and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def load_function(address: str, named: str, expected: str = "py:module:function") -> Any:
    """The function at py:module:function. named: what the address was given as, expected: what it could have been, for the sentence.

    Raises GameError when the address leads to none.
    """
    scheme, _, rest = address.partition(":")
    module, _, name = rest.rpartition(":")
    if scheme != "py" or not module:
        raise GameError(f"{named} is {address!r}; {expected} was expected")
    look_here(module)
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise GameError(f"{named} is {address!r}, which leads to no function: {error}") from None
    if not callable(function):
        raise GameError(f"{named} is {address!r}, which leads to a {type(function).__name__}; a function was expected")
    return function


def _load_class(module_name: str, class_name: str, address: str) -> type[Any]:
    look_here(module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise GameError(f"{address}: there is no module {error.name} on Python's path or in {Path.cwd()}") from error
        raise GameError(f"{address}: the module {module_name} needs {error.name}, which is not installed") from error
    kind = getattr(module, class_name, None)
    if not inspect.isclass(kind):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        nearest = get_close_matches(class_name, classes, n=1, cutoff=0.0)
        hint = f"; did you mean py:{module_name}:{nearest[0]}?" if nearest else ""
        raise GameError(f"{address}: the module {module_name} has no class {class_name}{hint}")
    return kind


def _read(kind: type[Any], query: str, address: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    known = {name: entry.default for name, entry in inspect.signature(kind).parameters.items() if name != "copies"}
    for name, value in address_options.parse(query, address).items():
        if name not in known:
            raise GameError(f"{address}: {kind.__name__} has no option {name}; it has {', '.join(known) or 'none'}")
        default = known[name]
        read = int if isinstance(default, int) else float if isinstance(default, float) else str
        values[name] = address_options.value_of(read, value, name, address)
        if isinstance(default, bool):
            values[name] = bool(values[name])
    return values


def _make_own(kind: type[Game], copies: int, options: dict[str, Any], address: str) -> Game:
    missing: list[str] = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise GameError(f"{address} cannot be played: it does not define {' and '.join(missing)}")
    game = kind(copies=copies, **options)  # type: ignore[call-arg]  # the constructor is the subclass's own
    for field in ("observation_space", "action_space", "copies"):
        if not hasattr(game, field):
            raise GameError(f"{address} has no {field} after its construction; a Game sets observation_space, action_space and copies")
    if game.copies != copies:
        raise GameError(f"{address} was asked for {copies} copies and made {game.copies}")
    return game
