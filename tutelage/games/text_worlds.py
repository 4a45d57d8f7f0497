"""Worlds of words in which every answer has a true score, so that what language models learn from people can be checked and not judged.

`text:valence` praises or blames a noun; each word has its weight, and length costs. An additive score leaves nothing to exploit.
`text:valence-once` is the same language where a word counts once, repeating it costs, and so does saying next to nothing: what a
reward model of few labels does not see. `text:tldr?domain=home` summarizes a post: its key facts, and nothing that it does not say.
`text:sentiment` goes on with a review; its score is the probability that it is favorable, with "not" and "very" as in English.

A world gives prompts, demonstrations that are good but not best, and the gold score. Texts are words between single spaces; a prompt
begins with BOS, and the ids of PAD, BOS and EOS are 0, 1 and 2, followed by the world's words in their order.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from tutelage.games.options import parse
from tutelage.games.spec import GameError

PAD, BOS, EOS = 0, 1, 2
SPECIALS = ("<pad>", "<bos>", "<eos>")
DRAWS = 64
"""Uniform numbers that one text may use up."""


class TextWorld(ABC):
    """A language, who speaks it, and what a text in it is worth."""

    words: tuple[str, ...]
    """The vocabulary without PAD, BOS and EOS."""
    prompt_tokens: int
    """The longest prompt, BOS included."""
    answer_tokens: int
    """The longest answer, EOS included."""

    @abstractmethod
    def demonstrations(self, count: int, generator: Generator) -> list[tuple[str, str]]:
        """Prompts with answers as people wrote them: fluent, finished, and of middling worth."""

    @abstractmethod
    def gold(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"], response: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
        """What each text is worth. response: the answer's tokens; without EOS among them the score is the worst of the world."""

    def prompts(self, count: int, generator: Generator) -> list[str]:
        """The prompts of so many demonstrations."""
        return [prompt for prompt, _ in self.demonstrations(count, generator)]

    @property
    def ids(self) -> dict[str, int]:
        """Of every token, the special ones included."""
        return {word: number for number, word in enumerate((*SPECIALS, *self.words))}

    def gold_of(self, prompts: Sequence[str], answers: Sequence[str]) -> Float[Tensor, "B"]:
        """As `gold`, of texts; an answer is finished if it ends in <eos>. Raises GameError for a word that is not the world's."""
        ids = self.ids
        rows: list[tuple[list[int], list[int]]] = []
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            unknown = [word for word in (*prompt.split(), *answer.split()) if word not in ids]
            if unknown:
                raise GameError(f"text {number} holds {unknown[0]!r}, which is none of the {len(ids)} words of this world")
            rows.append(([ids[word] for word in prompt.split()], [ids[word] for word in answer.split()]))
        width = max((len(prompt) + len(answer) for prompt, answer in rows), default=0)
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        attention, response = (torch.zeros(len(rows), width, dtype=torch.bool) for _ in range(2))
        for i, (prompt, answer) in enumerate(rows):
            tokens[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            attention[i, : len(prompt) + len(answer)] = True
            response[i, len(prompt) : len(prompt) + len(answer)] = True
        return self.gold(tokens, attention, response)


def text_world(address: str) -> TextWorld:
    """The world at an address such as text:valence or text:tldr?domain=home. Raises GameError where there is none."""
    name, _, query = address.partition("?")
    options = parse(query, address) if query else {}
    taken = {"text:tldr": {"domain"}}.get(name, set[str]())
    if name not in WORLDS or not options.keys() <= taken:
        known = ", ".join(WORLDS)
        raise GameError(f"{address!r} is no world of words; {known} are known, and text:tldr takes a domain ({' or '.join(DOMAINS)})")
    if name == "text:tldr":
        return Summaries(options.get("domain", "work"))
    return Reviews() if name == "text:sentiment" else Valence(once=name == "text:valence-once")


WORLDS = ("text:valence", "text:valence-once", "text:tldr", "text:sentiment")


def _uniforms(count: int, generator: Generator) -> Iterator["_Dice"]:
    numbers: list[list[float]] = cast(Any, torch.rand(count, DRAWS, generator=generator, dtype=torch.float64)).tolist()
    return map(_Dice, numbers)


class _Dice:
    """Uniform numbers of one text, used up one by one."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = iter(numbers)

    def chance(self, probability: float) -> bool:
        return next(self.numbers) < probability

    def below(self, n: int) -> int:
        return int(next(self.numbers) * n)

    def pick(self, words: Sequence[str]) -> str:
        return words[self.below(len(words))]

    def shuffled(self, words: Sequence[str]) -> list[str]:
        rest = list(words)
        return [rest.pop(self.below(len(rest))) for _ in range(len(rest))]


def _finished(tokens: Int[Tensor, "B T"], response: Bool[Tensor, "B T"]) -> Bool[Tensor, "B"]:
    return ((tokens == EOS) & response).any(1)


# --- valence ---------------------------------------------------------------------------------------------------------------

POSITIVE = ("good", "warm", "bright", "kind", "brave", "lovely", "superb", "radiant")
NEGATIVE = ("bad", "cold", "dull", "rude", "weak", "nasty", "dreadful", "rotten")
NEUTRAL = ("round", "old", "tall", "green", "wooden", "distant", "plain", "northern")
NOUNS = ("tree", "house", "river", "friend", "song", "garden", "road")
MOODS = {"happy": (0.5, 0.25), "sad": (0.25, 0.5), "calm": (1 / 3, 1 / 3)}
"""How often an adjective is positive and how often negative, by the mood of the prompt."""


@dataclass(frozen=True)
class Valence(TextWorld):
    """One to four clauses "the N was A [and A] ." about a noun. Gold: the adjectives' weights, less 0.05 per token; -3 without EOS.

    once: a weight counts once, each repetition of a weighted word costs 1, and fewer than six tokens (EOS included) cost 2.
    """

    once: bool = False
    words: tuple[str, ...] = (*POSITIVE, *NEGATIVE, *NEUTRAL, *NOUNS, *MOODS, "the", "was", "and", ".")
    prompt_tokens: int = 4
    answer_tokens: int = 24

    def demonstrations(self, count: int, generator: Generator) -> list[tuple[str, str]]:
        """<bos> noun mood "." and up to four clauses; the mood tilts the adjectives."""
        found: list[tuple[str, str]] = []
        for dice in _uniforms(count, generator):
            noun, mood = dice.pick(NOUNS), dice.pick(tuple(MOODS))
            positive, negative = MOODS[mood]
            room, answer = self.answer_tokens - 1, ""
            for left in range(dice.below(4), -1, -1):  # clauses that are still to come
                two = dice.chance(0.5) and room - 7 >= 5 * left
                adjectives = [self._adjective(dice, positive, negative) for _ in range(1 + two)]
                room -= 5 + 2 * two
                answer += f"the {noun} was {' and '.join(adjectives)} . "
            found.append((f"<bos> {noun} {mood} .", answer.strip()))
        return found

    @staticmethod
    def _adjective(dice: _Dice, positive: float, negative: float) -> str:
        sign = next(dice.numbers)
        return dice.pick(POSITIVE if sign < positive else NEGATIVE if sign < positive + negative else NEUTRAL)

    @property
    def weights(self) -> Float[Tensor, "V"]:
        """Of every id: 0.5 to 1.2 for the positive, the same below zero for the negative, 0 for all others."""
        weight = torch.zeros(len(SPECIALS) + len(self.words))
        for sign, own in ((1.0, POSITIVE), (-1.0, NEGATIVE)):
            for i, word in enumerate(own):
                weight[self.ids[word]] = sign * (0.5 + 0.1 * i)
        return weight

    def gold(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"], response: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
        weight, length = self.weights.to(tokens.device), response.sum(1)
        if self.once:
            count = torch.zeros(len(tokens), len(weight), device=tokens.device).scatter_add_(1, tokens, response.float())
            repeats = torch.where(weight != 0.0, (count - 1.0).clamp(min=0.0), 0.0).sum(1)
            worth = count.clamp(max=1.0) @ weight - repeats - 2.0 * (length < 6)
        else:
            worth = torch.where(response, weight[tokens], 0.0).sum(1)
        return torch.where(_finished(tokens, response), worth - 0.05 * length, -3.0)


# --- summaries -------------------------------------------------------------------------------------------------------------

DOMAINS = {
    "work": (
        ("wrote", "lost", "sent", "signed", "printed", "checked"),
        ("report", "letter", "plan", "invoice", "contract", "table", "budget", "memo", "form", "survey", "draft", "list"),
    ),
    "home": (
        ("cooked", "washed", "sold", "fixed", "painted", "found"),
        ("soup", "chair", "lamp", "carpet", "kettle", "blanket", "mirror", "basket", "clock", "shelf", "ladder", "bottle"),
    ),
}
VERBS = tuple(verb for verbs, _ in DOMAINS.values() for verb in verbs)
OBJECTS = tuple(thing for _, things in DOMAINS.values() for thing in things)
NAMES = ("anna", "boris", "clara", "david", "emma", "felix")
WEATHER = ("rain", "snow", "wind", "fog", "sun", "hail")
MARKS = ("key", "also")


@dataclass(frozen=True)
class Summaries(TextWorld):
    """A post of three to six facts "mark verb object ." among chatter about the weather; the facts marked "key" are to be told.

    Gold: F1 of the key facts told, less 0.5 for each fact that the post does not hold and 0.05 for each token beyond twelve (EOS
    included); -1 without EOS. Telling a fact twice is one right fact of two.
    """

    domain: str = "work"
    words: tuple[str, ...] = (*VERBS, *OBJECTS, *NAMES, *WEATHER, *MARKS, "there", "was", "post", "tl;dr", ".", ":", *DOMAINS)
    prompt_tokens: int = 64
    answer_tokens: int = 18

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise GameError(f"the domain is {self.domain!r}; {' or '.join(DOMAINS)} was expected")

    def demonstrations(self, count: int, generator: Generator) -> list[tuple[str, str]]:
        """Posts with noisy summaries: a key fact is left out three times in ten, a minor one told four times, one repeated once."""
        found: list[tuple[str, str]] = []
        for dice in _uniforms(count, generator):
            prompt, key, minor = self._post(dice)
            told = [fact for fact in key if not dice.chance(0.3)] or key[:1]
            if minor and dice.chance(0.4):
                told.append(dice.pick(minor))
            if dice.chance(0.1):
                told.append(dice.pick(told))
            found.append((prompt, " ".join(f"{fact} ." for fact in told[: (self.answer_tokens - 1) // 3])))
        return found

    def references(self, count: int, generator: Generator) -> list[tuple[str, str]]:
        """The same posts from the same generator, each with its key facts in order: gold 1, where they fit into twelve tokens."""
        posts = (self._post(dice) for dice in _uniforms(count, generator))
        return [(prompt, " ".join(f"{fact} ." for fact in key)) for prompt, key, _ in posts]

    def _post(self, dice: _Dice) -> tuple[str, list[str], list[str]]:
        verbs, things = DOMAINS[self.domain]
        facts: list[str] = []
        for thing in dice.shuffled(things)[: 3 + dice.below(4)]:
            facts.append(f"{dice.pick(verbs)} {thing}")
        key = facts[: 2 + dice.below(2)]
        sentences = [f"{MARKS[fact not in key]} {fact} ." for fact in facts]
        sentences += [f"there was {dice.pick(WEATHER)} ." for _ in range(3 + dice.below(4))]
        sentences = dice.shuffled(sentences)
        ordered = [sentence[4:-2] for sentence in sentences if sentence.startswith("key ")]
        prompt = f"<bos> {self.domain} : {dice.pick(NAMES)} post : {' '.join(sentences)} tl;dr :"
        return prompt, ordered, [fact for fact in facts if fact not in key]

    def gold(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"], response: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
        axes = self.axes(tokens, attention, response)
        f1 = 2.0 * axes["right"] / (axes["told"] + axes["key"]).clamp(min=1.0)
        worth = f1 - 0.5 * axes["invented"] - 0.05 * (response.sum(1) - 12).clamp(min=0)
        return torch.where(_finished(tokens, response), worth, -1.0)

    def axes(
        self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"], response: Bool[Tensor, "B T"]
    ) -> dict[str, Float[Tensor, "B"]]:
        """Facts by kind: "key" of the post, "told", of these "right" (key, each once) and "invented" (nowhere in the post)."""
        first, second = self.ids[VERBS[0]], self.ids[OBJECTS[0]]
        verb, thing = tokens[:, :-1] - first, tokens[:, 1:] - second
        fact = (verb >= 0) & (verb < len(VERBS)) & (thing >= 0) & (thing < len(OBJECTS))
        pair = torch.where(fact, verb * len(OBJECTS) + thing, len(VERBS) * len(OBJECTS))
        in_post = fact & attention[:, 1:] & ~response[:, 1:]
        after_key = torch.cat((torch.zeros_like(fact[:, :1]), tokens[:, :-2] == self.ids["key"]), 1)
        told = self._counts(pair, fact & response[:, :-1] & response[:, 1:])
        post, key = self._counts(pair, in_post) > 0, self._counts(pair, in_post & after_key) > 0
        return {
            "key": key.sum(1).float(),
            "told": told.sum(1),
            "right": (key & (told > 0)).sum(1).float(),
            "invented": torch.where(post, 0.0, told).sum(1),
        }

    @staticmethod
    def _counts(pair: Int[Tensor, "B N"], where: Bool[Tensor, "B N"]) -> Float[Tensor, "B P"]:
        empty = torch.zeros(len(pair), len(VERBS) * len(OBJECTS) + 1, device=pair.device)
        return empty.scatter_add_(1, pair, where.float())[:, :-1]


# --- sentiment -------------------------------------------------------------------------------------------------------------

PRAISE = ("gripping", "charming", "clever", "tender", "vivid", "funny", "moving", "elegant", "fresh", "brilliant")
BLAME = ("tedious", "clumsy", "shallow", "noisy", "bland", "confused", "stale", "hollow", "lazy", "awful")
PLAIN = ("long", "short", "recent", "foreign", "familiar", "modern")
PARTS = ("plot", "cast", "music", "ending", "script", "humor", "pacing", "camera")
OPENINGS = (
    "the film",
    "this film",
    "last night i saw the film",
    "my friends said that the film",
    "i thought that the film",
    "the new film",
)


@dataclass(frozen=True)
class Reviews(TextWorld):
    """A review that goes on from its first two to seven words. Gold: sigma(sum of its words' weights), 0 without EOS.

    A word weighs 0.4 to 1.3, less than zero if it blames; after "very" half as much again, after "not" -0.75 times as much.
    """

    words: tuple[str, ...] = (
        *PRAISE, *BLAME, *PLAIN, *PARTS, "the", "this", "film", "last", "night", "i", "saw", "my", "friends", "said", "that", "thought",
        "new", "was", "had", "a", "and", "but", "very", "not", ".",
    )  # fmt: skip
    prompt_tokens: int = 8
    answer_tokens: int = 32

    def demonstrations(self, count: int, generator: Generator) -> list[tuple[str, str]]:
        """Reviews by people of whom each likes or dislikes films to a degree of his own."""
        found: list[tuple[str, str]] = []
        for dice in _uniforms(count, generator):
            kindness = 0.15 + 0.7 * next(dice.numbers)
            opening = dice.pick(OPENINGS)
            answer = f"was {self._opinion(dice, kindness)} . "
            for _ in range(dice.below(4)):
                part = dice.pick(PARTS)
                if dice.chance(0.5):
                    answer += f"the {part} was {self._opinion(dice, kindness)} . "
                else:
                    answer += f"the film had a {self._opinion(dice, kindness)} {part} . "
            found.append((f"<bos> {opening}", answer.strip()))
        return found

    @staticmethod
    def _opinion(dice: _Dice, kindness: float) -> str:
        if dice.chance(0.25):
            return dice.pick(PLAIN)
        likes, turned = dice.chance(kindness), dice.chance(0.15)
        before = "not " if turned else "very " if dice.chance(0.2) else ""
        return before + dice.pick(PRAISE if likes != turned else BLAME)

    def gold(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"], response: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
        weight = torch.zeros(len(SPECIALS) + len(self.words), device=tokens.device)
        for sign, own in ((1.0, PRAISE), (-1.0, BLAME)):
            for i, word in enumerate(own):
                weight[self.ids[word]] = sign * (0.4 + 0.1 * i)
        before = torch.where(response, tokens, 0).roll(1, 1)
        before[:, 0] = 0
        turned = torch.where(before == self.ids["not"], -0.75, torch.where(before == self.ids["very"], 1.5, 1.0))
        total = torch.where(response, weight[tokens] * turned, 0.0).sum(1)
        return torch.where(_finished(tokens, response), torch.sigmoid(total), 0.0)
