"""Settings of the stages, and what each of them may be: one table by name, for a name means the same in every stage."""

import math
from dataclasses import fields

AT_LEAST_ONE = {
    "batch_size", "episodes", "epochs", "every", "iterations", "kl_horizon", "max_new_tokens", "members", "microbatch", "n", "prompts",
    "rounds", "samples",
}  # fmt: skip
POSITIVE = {"beta", "epsilon", "kl", "kl_target", "max_grad_norm", "sampling_temperature"}
AT_MOST_ONE = {"discount", "final_share", "gae_lambda"}
BELOW_ONE = {"betas", "dropout", "ema", "rater_error"}
BELOW_HALF = {"label_smoothing"}
SIGNED = {"kl_limit", "missing_eos_score", "objective_weights"}
"""Settings by what they may be; all others are not negative."""


class TrainingError(ValueError):
    """Training that cannot go on; one sentence: what happened, where, and what may help."""


class Settings:
    """What the settings of all stages share: a number out of its range is refused when it is given, and not in some later update."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    _refuse_out_of_range(name, number)


def _refuse_out_of_range(name: str, number: int | float) -> None:
    if name in AT_LEAST_ONE:
        fits, expected = number >= 1, "at least 1"
    elif name in POSITIVE:
        fits, expected = number > 0.0, "a number above 0"
    elif name in AT_MOST_ONE:
        fits, expected = 0.0 <= number <= 1.0, "a number in [0, 1]"
    elif name in BELOW_ONE | BELOW_HALF:
        most = 1.0 if name in BELOW_ONE else 0.5
        fits, expected = 0.0 <= number < most, f"a number in [0, {most:g})"
    else:
        fits, expected = number >= 0.0 or name in SIGNED, "a number that is not negative"
    if math.isnan(number) or not fits:
        raise TrainingError(f"{name}={number} was given; {expected} was expected")
