"""Settings: a number out of its range is a sentence when it is given."""

from typing import Any

import pytest

from tutelage.experiment.config import STAGES
from tutelage.learn.language import best_of_n, dpo, groups, kto, odin, online_dpo, ppo_lm, reward_model, rounds, sft
from tutelage.learn.language.descent import Optimization, TrainingError
from tutelage.learn.language.settings import Settings
from tutelage.learn.language.writing import Sampling


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: sft.Config(epochs=0), "epochs=0 was given; at least 1 was expected"),
        (lambda: sft.Config(microbatch=-1), "microbatch=-1 was given; at least 1 was expected"),
        (lambda: sft.Config(dropout=1.0), r"dropout=1.0 was given; a number in \[0, 1\) was expected"),
        (lambda: kto.Config(learning_rate=-1e-3), "learning_rate=-0.001 was given; a number that is not negative was expected"),
        (lambda: dpo.Config(loss="ipo", beta=0.0), "beta=0.0 was given; a number above 0 was expected"),
        (lambda: dpo.Config(label_smoothing=0.6), r"label_smoothing=0.6 was given; a number in \[0, 0.5\) was expected"),
        (lambda: dpo.Config(nll_coefficient=-1.0), "nll_coefficient=-1.0 was given"),
        (lambda: ppo_lm.Config(episodes=0), "episodes=0 was given"),
        (lambda: ppo_lm.Config(kl_target=0.0), "kl_target=0.0 was given"),
        (lambda: ppo_lm.Config(discount=1.1), r"discount=1.1 was given; a number in \[0, 1\] was expected"),
        (lambda: Sampling(microbatch=0), "microbatch=0 was given"),
        (lambda: Sampling(sampling_temperature=float("nan")), "sampling_temperature=nan was given"),
        (lambda: Optimization(betas=(0.9, 1.0)), "betas=1.0 was given"),
        (lambda: reward_model.Config(rater_error=1.0), "rater_error=1.0 was given"),
        (lambda: groups.GRPO(iterations=0), "iterations=0 was given"),
        (lambda: rounds.Config(every=0), "every=0 was given"),
    ],
)
def test_a_number_out_of_its_range(make: Any, sentence: str):
    with pytest.raises(TrainingError, match=f"^{sentence}"):
        make()


def test_all_settings_are_checked_and_what_means_something_is_kept():
    assert all(issubclass(stage.config, Settings) for stage in STAGES.values())
    assert all(issubclass(kind, Settings) for kind in (odin.Config, best_of_n.Config, online_dpo.Config))
    assert Sampling(missing_eos_score=-1.0).missing_eos_score == -1.0 and sft.Config(learning_rate=0.0, microbatch=None).epochs == 1
    assert dpo.Config(objective_weights=(1.0, -0.5)).objective_weights[1] == -0.5
