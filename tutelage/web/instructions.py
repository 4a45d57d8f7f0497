"""What raters are told before they judge, game by game."""

GENERAL = (
    "Look at both clips and choose the one in which better things happen. Judge only what you see in the clips.",
    "If they look about equally good, it is a tie. If you cannot make out what is going on, say that you can't tell.",
)
"""True of every game."""

ATARI = (
    "Before you begin, play the game yourself for five minutes: short clips are hard to read for somebody who never played.",
    "How the player came into its situation does not matter: neither the lives that are left nor the level.",
)

GUIDES = {
    "gym:Pendulum": (
        "The pole should stand upright and stay there, as still as possible.",
        "If neither clip gets there, the better one swings higher, or reaches the top sooner. A pole that hangs still is worst.",
    ),
    "gym:Hopper": (
        "What counts first is that the joint near the pointed end travels to the right; travelling left is worse than standing still.",
        "Where both travel about as far, prefer the one that holds that joint higher.",
    ),
    "gym:HalfCheetah": ("The faster it runs to the right, the better.",),
    "dm:cheetah": ("The faster it runs to the right, the better.",),
    "gym:InvertedPendulum": (
        "The pole should point about straight up.",
        "Expect many ties, where both poles have fallen, and many clips that you can't tell, where the cart has left the picture.",
        "A pole that you can see and that has not fallen beats one that you cannot see.",
    ),
    "gym:Ant": ("Standing upright comes first. Of two upright ants, the one that gets further is better.",),
    "gym:Reacher": ("Staying near the target steadily beats coming close and drifting away again.",),
    "gym:Walker2d": ("It should walk to the right, upright. Falling is worse than walking slowly.",),
    "dm:walker": ("It should walk, upright. Falling is worse than walking slowly.",),
    "atari:Breakout": (*ATARI, "Good: the paddle meets the ball, colored bricks break. Bad: the ball is lost at the bottom."),
    "atari:Pong": (*ATARI, "You are green, on the right. Good: the ball gets past orange on the left. Bad: it gets past you."),
    "atari:Enduro": (*ATARI, "Keep pace with the other cars: neither fall behind nor race past them."),
}
"""By how the game's address begins; the longest beginning wins."""


def instructions(game: str) -> tuple[str, ...]:
    """Sentences for the raters of a game; the general ones alone where we know nothing more."""
    known = max((start for start in GUIDES if game.startswith(start)), key=len, default=None)
    more = ATARI if game.startswith("atari:") else ()
    return (*GENERAL, *(GUIDES[known] if known is not None else more))
