"""Settings that change over a run."""


def linear(start: float, end: float, share: float, fraction: float = 1.0) -> float:
    """From start to end in a straight line over the first `fraction` of a run, and end from there on.

    (1 - x) start + x end,   x = min(share / fraction, 1),   share of the run that is over, in [0, 1].

    Mnih et al. 2015 (Nature 518), extended data table 1, for the exploration of DQN. A fraction of 0 is `end` at once.
    Raises ValueError unless 0 <= fraction <= 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction={fraction} was given; a schedule needs a share of the run, in [0, 1]")
    done = 1.0 if share >= fraction else share / fraction
    return (1.0 - done) * start + done * end
