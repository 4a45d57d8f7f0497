"""Text as a game: the state is what stands there, an action is the next token, and the environment does nothing but append it.

So the lecture's questions have plain answers. State and observation: the prompt and the answer so far. Action: one token of the
vocabulary, EOS among them. Transition: certain, s' = s + a; chance enters by the prompt alone. Reward: 0, and at the end the gold score
of the whole. The episode ends with EOS, or at the longest answer that the world knows: that is a rule of the world, as the edge of a
board is, and no time limit of training, so it terminates too.

Language models do not play it one step at a time through this door: `nets/sampling.py` draws whole batches of answers from a cache. What
both produce is the same trajectory, tokens for actions and `response` for `mask`, and a test holds them to it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Generator, Tensor

from tutelage.games.spec import CannotSnapshot, Discrete, Game, GameError, MultiDiscrete, Nested, Snapshot, Step
from tutelage.games.text_worlds import EOS, PAD, TextWorld, text_world


class TextGame(Game):
    """A world of words, one token per step. Observation: all its places, prompt first, PAD where nothing has been written."""

    def __init__(self, world: TextWorld, copies: int, name: str = "text") -> None:
        self.world, self.copies, self.name = world, copies, name
        self._ids = world.ids
        places = world.prompt_tokens + world.answer_tokens
        self.observation_space, self.action_space = MultiDiscrete((len(self._ids),) * places), Discrete(len(self._ids))
        self._tokens = torch.full((copies, places), PAD, dtype=torch.int64)
        self._asked, self._written = torch.zeros(2, copies, dtype=torch.int64).unbind()  # tokens of prompt and answer
        self._playing = torch.zeros(copies, dtype=torch.bool)
        self._generators: list[Generator] = []

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Int64[Tensor, "B L"]:
        """As Game.reset: a new prompt. Raises GameError before the first seed."""
        if seed is not None:
            if len(seed) != self.copies:
                raise GameError(f"{self.name} was given {len(seed)} seeds for {self.copies} copies; one per copy is needed")
            self._generators = [Generator().manual_seed(int(own)) for own in seed]
        if not self._generators:
            raise GameError(f"{self.name} was reset without a seed; the first reset needs one per copy")
        for copy in [copy for copy in range(self.copies) if where is None or bool(where[copy])]:
            prompt = [self._ids[word] for word in self.world.prompts(1, self._generators[copy])[0].split()]
            self._tokens[copy] = PAD
            self._tokens[copy, : len(prompt)] = torch.tensor(prompt)
            self._asked[copy], self._written[copy], self._playing[copy] = len(prompt), 0, True
        return self._tokens.clone()

    def step(self, actions: Nested) -> Step:
        """Append one token. Raises GameError for what is no token, and for a copy that awaits its reset."""
        if not bool(self._playing.all()):
            copy = int((~self._playing).long().argmax())
            raise GameError(f"copy {copy} of {self.name} was stepped outside an episode; reset it first")
        action = self._checked(actions)
        self._tokens[torch.arange(self.copies), self._asked + self._written] = action
        self._written += 1
        terminated = (action == EOS) | (self._written == self.world.answer_tokens)
        reward = torch.zeros(self.copies)
        if bool(terminated.any()):
            reward[terminated] = self._gold(terminated)
        self._playing = ~terminated
        return Step(self._tokens.clone(), reward, terminated, terminated.clone(), torch.ones_like(terminated))

    def _checked(self, actions: Nested) -> Int64[Tensor, "B"]:
        if not isinstance(actions, Tensor) or actions.shape != (self.copies,) or actions.is_floating_point():
            given = f"{actions.dtype} of shape {tuple(actions.shape)}" if isinstance(actions, Tensor) else type(actions).__name__
            raise GameError(f"{self.name} was given actions of type {given}; {self.copies} copies need one token each")
        outside = (actions < 0) | (actions >= len(self._ids))
        if bool(outside.any()):
            raise GameError(f"{self.name} was given token {int(actions[outside][0])}; it has the tokens 0 to {len(self._ids) - 1}")
        return actions.long().cpu()

    def _gold(self, which: Bool[Tensor, "B"]) -> Tensor:
        place = torch.arange(self._tokens.shape[1])
        attention = place < (self._asked + self._written)[:, None]
        response = attention & (place >= self._asked[:, None])
        return self.world.gold(self._tokens[which], attention[which], response[which])

    def text(self, copy: int) -> tuple[str, str]:
        """The prompt and what has been written after it."""
        words = list(self._ids)
        asked, end = int(self._asked[copy]), int(self._asked[copy] + self._written[copy])
        found = [words[token] for token in self._row(copy)]
        return " ".join(found[:asked]), " ".join(found[asked:end])

    def _row(self, copy: int) -> list[int]:
        return [int(token) for token in self._tokens[copy]]

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot."""
        if not self._generators:
            raise GameError(f"copy {copy} of {self.name} has no state yet; reset it first")
        counts = {"asked": int(self._asked[copy]), "written": int(self._written[copy]), "playing": bool(self._playing[copy])}
        return {"game": self.name, "tokens": self._row(copy), "generator": self._generators[copy].get_state(), **counts}

    def restore(self, copy: int, snapshot: Snapshot) -> Int64[Tensor, "L"]:
        """As Game.restore, also into a game that has never been reset."""
        if snapshot["game"] != self.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.name}")
        if not self._generators:
            self._generators = [Generator() for _ in range(self.copies)]
        self._tokens[copy] = torch.tensor(snapshot["tokens"])
        self._generators[copy].set_state(snapshot["generator"])
        self._asked[copy], self._written[copy], self._playing[copy] = snapshot["asked"], snapshot["written"], snapshot["playing"]
        return self._tokens[copy].clone()


def make_text(address: str, copies: int, options: dict[str, Any]) -> TextGame:
    """The game of a world of words, such as text:valence. Raises GameError where there is none."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    joined = address + (("&" if "?" in address else "?") + query if query else "")
    return TextGame(text_world(joined), copies, joined)
