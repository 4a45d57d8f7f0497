"""tutelage: reinforcement learning from rewards, from one another and from people.

`tutelage.train(config, out)` trains; `tutelage.load_policy(out).act(observation)` acts; `tutelage.load_model(out).answer(prompts)` writes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.experiment.policy import load_policy
    from tutelage.experiment.text_policy import load_model
    from tutelage.experiment.train import resume, train

__version__ = "0.1.0"
__all__ = ["load_model", "load_policy", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Imported when first used: `import tutelage` alone loads no torch."""
    if name in ("train", "resume"):
        from tutelage.experiment import train as module
    elif name == "load_policy":
        from tutelage.experiment import policy as module
    elif name == "load_model":
        from tutelage.experiment import text_policy as module
    else:
        raise AttributeError(f"tutelage has no {name!r}; the nearest rooms are its subpackages")
    return getattr(module, name)
