"""What a run is: a frozen value that becomes `config.json` and comes back."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

from tutelage.learn.deep import a2c, ddpg, discrete_sac, dqn, policy_gradient, ppo, sac, td3, trpo
from tutelage.learn.many_agents import mappo, masac, matd3
from tutelage.learn.preference import christiano, family, pebble
from tutelage.learn.tabular import (
    modified_policy_iteration,
    monte_carlo,
    policy_evaluation,
    policy_iteration,
    q_learning,
    q_value_iteration,
    sarsa,
    td_lambda,
    value_iteration,
)


class Algorithm(NamedTuple):
    """What a name stands for."""

    config: type
    """The frozen dataclass of its settings."""
    learner: Callable[..., Any]
    """Makes a Learner from (config, observation space, action space, generators, device); PEBBLE's takes its lesson too, and one of
    many agents the players instead of the spaces."""
    many: bool = False
    """Whether it learns for many agents."""
    taught: bool = False
    """Whether it learns from a teacher's answers."""


ALGORITHMS = {
    "monte-carlo": Algorithm(monte_carlo.Config, monte_carlo.MonteCarlo),
    "td-lambda": Algorithm(td_lambda.Config, td_lambda.TDLambda),
    "sarsa": Algorithm(sarsa.Config, sarsa.Sarsa),
    "q-learning": Algorithm(q_learning.Config, q_learning.QLearning),
    "policy-gradient": Algorithm(policy_gradient.Config, policy_gradient.PolicyGradient),
    "a2c": Algorithm(a2c.Config, a2c.A2C),
    "trpo": Algorithm(trpo.Config, trpo.TRPO),
    "ppo": Algorithm(ppo.Config, ppo.PPO),
    "dqn": Algorithm(dqn.Config, dqn.DQN),
    "ddpg": Algorithm(ddpg.Config, ddpg.DDPG),
    "td3": Algorithm(td3.Config, td3.TD3),
    "sac": Algorithm(sac.Config, sac.SAC),
    "discrete-sac": Algorithm(discrete_sac.Config, discrete_sac.DiscreteSAC),
    "maddpg": Algorithm(matd3.MADDPG, matd3.MATD3, many=True),
    "matd3": Algorithm(matd3.Config, matd3.MATD3, many=True),
    "matd4": Algorithm(matd3.MATD4, matd3.MATD3, many=True),
    "masac": Algorithm(masac.Config, masac.MASAC, many=True),
    "mappo": Algorithm(mappo.Config, mappo.MAPPO, many=True),
    "ippo": Algorithm(mappo.IPPO, mappo.MAPPO, many=True),
    "christiano": Algorithm(christiano.Config, christiano.Christiano, taught=True),
    "prefppo": Algorithm(family.PrefPPO, christiano.Christiano, taught=True),
    "pebble": Algorithm(pebble.Config, pebble.Pebble, taught=True),
    "surf": Algorithm(family.Surf, pebble.Pebble, taught=True),
    "meta-reward-net": Algorithm(family.MetaRewardNet, pebble.Pebble, taught=True),
    "qpa": Algorithm(family.QPA, pebble.Pebble, taught=True),
    "rune": Algorithm(family.Rune, pebble.Pebble, taught=True),
    "rime": Algorithm(family.Rime, pebble.Pebble, taught=True),
    "star": Algorithm(family.Star, pebble.Pebble, taught=True),
}
"""The one table of names: what `tutelage train NAME` and `config.json` mean."""

COUNTS = (
    "steps", "seeds", "copies", "threads", "log_every", "evaluate_every", "evaluation_episodes", "checkpoint_every", "checkpoints_kept"
)  # fmt: skip


PLANNERS = {
    "value-iteration": Algorithm(value_iteration.Config, value_iteration.ValueIteration),
    "q-value-iteration": Algorithm(q_value_iteration.Config, q_value_iteration.QValueIteration),
    "policy-evaluation": Algorithm(policy_evaluation.Config, policy_evaluation.PolicyEvaluation),
    "policy-iteration": Algorithm(policy_iteration.Config, policy_iteration.PolicyIteration),
    "modified-policy-iteration": Algorithm(modified_policy_iteration.Config, modified_policy_iteration.ModifiedPolicyIteration),
}
"""What plans in a world of known arrays; called as (config, world)."""


class Stage(NamedTuple):
    """What a name stands for that trains a language model. Its module is imported when it is asked for: transformers takes a while."""

    module: str
    """In learn/language."""
    learner_name: str
    """A Stage of `learn/language/descent.py`."""
    learns_from: typing.Literal["demonstrations", "rankings", "pairs", "labeled", "prompts"]
    """The rows that it needs."""
    config_name: str = "Config"

    @property
    def config(self) -> type:
        """The frozen dataclass of its settings."""
        return getattr(import_module(f"tutelage.learn.language.{self.module}"), self.config_name)

    @property
    def learner(self) -> Callable[..., Any]:
        """Makes the learner."""
        return getattr(import_module(f"tutelage.learn.language.{self.module}"), self.learner_name)

    def settles(self, algorithm: Any) -> bool:
        """Whether these settings are its own; imports nothing."""
        own = type(algorithm)
        return (own.__module__, own.__qualname__) == (f"tutelage.learn.language.{self.module}", self.config_name)


STAGES = {
    "sft": Stage("sft", "SFT", "demonstrations"),
    "reward-model": Stage("reward_model", "RewardModel", "rankings"),
    "dpo": Stage("dpo", "DPO", "pairs"),
    "kto": Stage("kto", "KTO", "labeled"),
    "ppo-lm": Stage("ppo_lm", "PPOLM", "prompts"),
    "rloo": Stage("groups", "Groups", "prompts"),
    "grpo": Stage("groups", "Groups", "prompts", "GRPO"),
    "online-dpo": Stage("online_dpo", "OnlineDPO", "prompts"),
    "best-of-n": Stage("best_of_n", "BestOfN", "prompts"),
    "rounds": Stage("rounds", "Rounds", "prompts"),
}
"""What trains a language model; learns by updates from rows of text and not by steps of a game."""


class ConfigError(ValueError):
    """A configuration that makes no sense: what was given, what was expected, where."""


@dataclass(frozen=True)
class RunConfig:
    """One run: an algorithm, a game, and how long."""

    algorithm: Any
    """The algorithm and its settings."""
    game: str
    """Address of the game, such as gym:Pendulum-v1, dm:walker-walk or py:module:Class."""
    steps: int
    """Environment steps per seed; with several copies of the game, of each copy."""
    seed: int = 0
    """The first seed."""
    seeds: int = 1
    """How many seeds to train stacked in this run: seed, seed + 1, ..."""
    copies: int = 1
    """Copies of the game per seed; a step of the run is one step of each."""
    device: str = "cpu"
    """Where the nets live, such as cpu or cuda."""
    threads: int = 1
    """Threads of torch. The promise of equal bits holds for equal numbers."""
    true_reward: str = "game"
    """What is learned from, or judged by (a scripted teacher): "game", its "sign" (Atari), or py:module:function of (observation,
    action)."""
    rater: typing.Literal["oracle", "store", "human"] = "oracle"
    """Who answers: a scripted teacher, whoever writes into the store, or (human) the same with a page opened to answer on."""
    teacher: str = "oracle"
    """Which scripted teacher: oracle, mistake, stoc, skip, equal, myopic (B-Pref), or coin, who knows nothing."""
    asynchronous: bool = False
    """Policy, rater and reward model as three processes that wait for nobody (christiano, prefppo): nothing is lost, but bits differ."""
    weigh_raters: bool = False
    """Let an answer count 1 - 2 e, e its rater's share of errors as the answers of others to the same questions show it; else 1."""
    most_awaited: int | None = None
    """Questions of a seed that may lie unanswered; beyond, none are asked. None: no limit (a scripted teacher answers at once)."""
    steps_per_second: float | None = None
    """No faster than this, all seeds together taking a step at a time, so that a person can keep up. None: as fast as it goes."""
    answer_seconds: float = 0.0
    """How long a scripted teacher thinks about a question, where it is a process of its own."""
    store: str | None = None
    """URL of the label store, such as sqlite:///labels.sqlite or postgresql+psycopg://... None: the run's own feedback.sqlite."""
    log_every: int = 200
    """Steps between two logged updates."""
    evaluate_every: int = 10_000
    """Steps between evaluations."""
    evaluation_episodes: int = 10
    """Noise-free episodes per evaluation and seed."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints."""
    checkpoints_kept: int = 2
    """Newest checkpoints that are kept."""
    anchor_every: int = 200
    """Steps between snapshots of the game from which clips are drawn later."""
    clips: int = 3
    """Episodes to film, spread over the run from before the first step to after the last; 0: none."""

    def __post_init__(self) -> None:
        if type(self.algorithm) not in [entry.config for entry in ALGORITHMS.values()]:
            raise ConfigError(f"algorithm={self.algorithm!r} was given; a Config of one of {', '.join(ALGORITHMS)} was expected")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} was given; a run needs at least 1")
        for name in ("seed", "anchor_every", "clips"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} was given; it cannot be negative")
        if self.most_awaited is not None and self.most_awaited < 1:
            raise ConfigError(f"most_awaited={self.most_awaited} was given; a teacher needs at least 1 question to answer")
        if self.steps_per_second is not None and not self.steps_per_second > 0.0:
            raise ConfigError(f"steps_per_second={self.steps_per_second} was given; a number above 0 was expected")
        if self.asynchronous and not isinstance(self.algorithm, christiano.Config):
            raise ConfigError(f"asynchronous was asked of {self.name}; of christiano and prefppo it can be")

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return next(name for name, entry in ALGORITHMS.items() if type(self.algorithm) is entry.config)


@dataclass(frozen=True)
class PlanConfig:
    """One plan: a planner and a world whose arrays are known."""

    algorithm: Any
    """The planner and its settings."""
    game: str
    """Address of a finite world, such as grid:lecture, mdp:random?states=8 or gym:FrozenLake-v1."""
    max_sweeps: int = 100_000
    """Sweeps after which it ends, though values still change."""
    threads: int = 1
    """Threads of torch."""
    log_every: int = 1
    """Sweeps between two lines of the log."""
    checkpoint_every: int = 10_000
    """Sweeps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("max_sweeps", "threads", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} was given; a plan needs at least 1")

    @property
    def name(self) -> str:
        """The planner's name."""
        return next(name for name, entry in PLANNERS.items() if type(self.algorithm) is entry.config)


@dataclass(frozen=True)
class TextRunConfig:
    """One run of a language model: a stage, a model and data."""

    algorithm: Any
    """The stage and its settings."""
    model: str
    """What learns: a run, a folder or hub name, or a kind with its sizes, such as gpt2?layers=2&width=32&heads=4&context=64."""
    data: str
    """A file or folder of rows (docs: text data), the URL of a label store, or a world such as text:valence, which writes its own."""
    tokenizer: str | None = None
    """A folder or hub name, or bpe:SIZE to train one on the data. None: the model's, and for a kind with its sizes the world's."""
    reference: str | None = None
    """What the policy is held near to: a run, folder or hub name. None: the model as it starts."""
    reward: tuple[str, ...] = ()
    """Where scores come from: runs or folders of reward models, a world, py:module:function. None given: the world of the data.
    With dpo's loss modpo: the other objectives, in the order of their weights."""
    reward_weights: tuple[float, ...] = ()
    """How much each reward counts in their sum. None given: one reward, or the members of an ensemble."""
    combine: typing.Literal["mean", "worst", "disagreement"] = "mean"
    """What several reward models agree on: their mean, the worst of them, or the mean less their variance."""
    variance_penalty: float = 1.0
    """How much their variance counts, with combine "disagreement"."""
    length_penalty: float = 0.0
    """Taken off the score per token of the answer, whatever the score comes from."""
    critic: str | None = None
    """What the critic of ppo-lm starts as: a run or folder of a reward model. None: the first reward model, else the policy's body."""
    demonstrations: str | None = None
    """What a reward model gives the mean score 0: a file, or a world. None: the world of the data, else the best of its own answers."""
    pretraining: str | None = None
    """Texts for the ptx term of ppo-lm: a file, or a world."""
    rows: int | None = None
    """Rows to take: the first of a file, or so many of a world (None: all, and 2,000 of a world)."""
    answers: int = 4
    """Of a world whose answers are compared: so many by the model to each prompt, ranked by a rater who sees gold scores through noise."""
    held_out: float = 0.05
    """Share of the rows that is not learned from but measured on."""
    context: int | None = None
    """Tokens of the longest text. None: the model's context."""
    too_long: typing.Literal["refuse", "drop", "cut_prompt", "cut_answer", "cut"] = "drop"
    """What becomes of longer ones."""
    learned: typing.Literal["answer", "assistant", "everything"] = "answer"
    """Which tokens are learned from: those of the last answer, of all turns of the assistant, or all."""
    preflight: typing.Literal["warn", "refuse", "off"] = "warn"
    """What `tutelage preflight` finds in a file is written into the log and the report; or it may end the run before it begins."""
    raters: str = ""
    """Who gave the labels, for the model card."""
    lora_rank: int = 0
    """Rank of adapters beside frozen weights; the reference is then the model without them. 0: all weights learn."""
    dtype: typing.Literal["float32", "bfloat16"] = "float32"
    """What the products are computed in; weights and moments stay in single precision."""
    checkpointing: bool = False
    """Recompute each layer in the backward pass instead of remembering it."""
    seed: int = 0
    """Of everything random."""
    device: str = "cpu"
    """Where the nets live, such as cpu or cuda."""
    threads: int = 1
    """Threads of torch. The promise of equal bits holds for equal numbers."""
    log_every: int = 10
    """Updates between two logged ones."""
    evaluate_every: int = 200
    """Updates between measurements on the rows that are held out."""
    checkpoint_every: int = 200
    """Updates between checkpoints."""
    checkpoints_kept: int = 2
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        if not any(stage.settles(self.algorithm) for stage in STAGES.values()):
            raise ConfigError(f"algorithm={self.algorithm!r} was given; a Config of one of {', '.join(STAGES)} was expected")
        for name in ("threads", "log_every", "evaluate_every", "checkpoint_every", "checkpoints_kept", "answers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} was given; a run needs at least 1")
        for name in ("seed", "lora_rank"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} was given; it cannot be negative")
        if self.rows is not None and self.rows < 1:
            raise ConfigError(f"rows={self.rows} was given; a run needs at least 1, None takes all")
        if not 0.0 <= self.held_out < 1.0:
            raise ConfigError(f"held_out={self.held_out} was given; a share in [0, 1) was expected")
        if self.learned != "answer" and self.name != "sft":
            raise ConfigError(f"learned={self.learned} was given to {self.name}, which judges answers; sft learns other tokens too")
        if self.lora_rank and self.name == "reward-model":
            raise ConfigError(f"lora_rank={self.lora_rank} was given to reward-model, whose weights all learn; 0 was expected")
        if self.reward_weights and len(self.reward_weights) != len(self.reward):
            raise ConfigError(f"{len(self.reward_weights)} reward_weights were given for {len(self.reward)} rewards; one each is needed")

    @property
    def name(self) -> str:
        """The stage's name."""
        return next(name for name, stage in STAGES.items() if stage.settles(self.algorithm))


Configuration = RunConfig | PlanConfig | TextRunConfig
"""What `config.json` can hold."""


def to_json(config: Configuration) -> dict[str, Any]:
    """Plain values, with the algorithm's name beside its settings."""
    return dataclasses.asdict(config) | {"name": config.name}


def from_json(values: Any) -> Configuration:
    """The inverse of `to_json`, for values from anywhere.

    Raises ConfigError for an unknown algorithm or field, naming the nearest known one, and for a value of a wrong kind.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"the configuration is a {type(values).__name__}; an object was expected")
    rest = dict(values)
    name = rest.pop("name", None)
    known = ALGORITHMS | PLANNERS | STAGES
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"unknown algorithm {name!r}; did you mean {nearest(str(name), known)}?")
    rest["algorithm"] = _build(known[name].config, rest.get("algorithm", {}), "algorithm")
    kind = PlanConfig if name in PLANNERS else TextRunConfig if name in STAGES else RunConfig
    return _build(kind, rest, "the configuration")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like this one."""
    return get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {values!r}; an object with the fields of {kind.__name__} was expected")
    types_of = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where} has an unknown field {name!r}; the nearest known one is {nearest(name, known)!r}")
        built[name] = _value(types_of[name], value, f"{where}.{name}")
    try:
        return kind(**built)
    except TypeError as error:
        raise ConfigError(f"{where} is incomplete: {error}") from None
    except ConfigError:
        raise
    except ValueError as error:  # what a stage says of its settings
        raise ConfigError(f"{where}: {error}") from None


def _value(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the kind that a field is annotated with: a plain type, a dataclass, tuple[kind, ...], Literal or a union."""
    options = typing.get_args(kind)
    if dataclasses.is_dataclass(value):  # `from_json` has built it already
        return value
    if isinstance(kind, types.UnionType):
        if value is None and types.NoneType in options:
            return None
        (kind,) = (option for option in options if option is not types.NoneType)
        return _value(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, where)
    if typing.get_origin(kind) is typing.Literal:
        if value not in options:
            raise ConfigError(f"{where} is {value!r}; one of {', '.join(map(str, options))} was expected")
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}; a list was expected")
        return tuple(_value(options[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if kind is float and type(value) is int and abs(value) < 2**53:  # JSON writes 1.0 as 1 where it likes
        return float(value)
    if type(value) is kind:
        return value
    raise ConfigError(f"{where} is {value!r}; {_NAMES.get(kind, kind.__name__)} was expected")


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
