"""Ratings of players from the results of their games."""

import math

from jaxtyping import Float
from torch import Tensor

from tutelage.equations.preferences import preference_probability

elo_scale: float = 400.0 / math.log(10.0)
"""Elo points per unit of Bradley-Terry logit (about 173.7): a rating divided by it is a Bradley-Terry score."""


def elo_expected_score(rating_left: Float[Tensor, "*#batch"], rating_right: Float[Tensor, "*#batch"]) -> Float[Tensor, "*#batch"]:
    """The score that the left player is expected to reach: 1 a win, 0.5 a draw, 0 a loss.

    E_left = 1 / (1 + 10^((R_right - R_left) / 400)) = sigma((R_left - R_right) / s),   s = 400 / ln 10.

    Elo 1978, The Rating of Chessplayers, with the logistic curve: Bradley-Terry in other units.
    """
    return preference_probability((rating_left - rating_right) / elo_scale)


def elo_update(
    rating_left: Float[Tensor, "*batch"],
    rating_right: Float[Tensor, "*batch"],
    score: Float[Tensor, "*batch"],
    k_factor: float,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Both ratings after one game per pair; what the left player wins, the right player loses.

    R_left' = R_left + K (S - E_left),   R_right' = R_right - K (S - E_left).

    Elo 1978, The Rating of Chessplayers. `score` S is the left player's result. The same as one step of gradient
    descent on the Bradley-Terry loss of (R_left - R_right) / s with label S, at learning rate K s.
    """
    change = k_factor * (score - elo_expected_score(rating_left, rating_right))
    return rating_left + change, rating_right - change
