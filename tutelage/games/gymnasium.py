"""Gymnasium environments as a Game: a plain list of single ones, or any vector environment.

The list is the fast and complete one: it takes snapshots copy by copy and spends no step on a reset. A vector
environment of any autoreset mode gives the same trajectories, once the rows whose `mask` is false are dropped.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from tutelage.games import nested
from tutelage.games.snapshots import is_mujoco, restore_environment, snapshot_environment
from tutelage.games.spec import (
    Box,
    CannotSnapshot,
    DictSpace,
    Discrete,
    Game,
    GameError,
    MultiBinary,
    MultiDiscrete,
    Nested,
    Snapshot,
    Space,
    Step,
    TupleSpace,
)

try:
    import gymnasium
    from gymnasium.envs.registration import load_env_creator
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
except ImportError as error:
    raise GameError("Gymnasium is not installed, and this game needs it; run: pip install 'tutelage[control]'") from error


# Any: the arrays of Gymnasium's spaces are of unknown dtype.
spaces: Any = gymnasium.spaces


@runtime_checkable
class Drawable(Protocol):
    """An environment that draws itself in any size."""

    def draw(self, width: int, height: int) -> np.ndarray:
        """A picture, `[height, width, 3]` uint8."""
        ...


def convert_space(space: Any, name: str) -> Space:
    """Our space for a Gymnasium space. Raises GameError for those without a tensor of fixed shape."""
    if isinstance(space, spaces.Box):
        return Box(space.shape, space.low, space.high, "uint8" if space.dtype == np.uint8 else "float32")
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiDiscrete(tuple(int(size) for size in space.nvec))
    if isinstance(space, spaces.MultiBinary):
        return MultiBinary(space.shape)
    if isinstance(space, spaces.Tuple):
        return TupleSpace(tuple(convert_space(child, name) for child in space.spaces))
    if isinstance(space, spaces.Dict):
        return DictSpace(tuple((key, convert_space(space.spaces[key], name)) for key in sorted(space.spaces)))
    known = "Box, Discrete, MultiDiscrete with one row, MultiBinary, Tuple and Dict"
    raise GameError(f"{name} has the space {space}, which is none of {known}")


class _Edge:
    """Between torch and the simulators of one game: actions go out as numpy arrays, observations come in as fresh tensors."""

    def __init__(self, observation_space: Any, action_space: Any, copies: int, name: str) -> None:
        self.observation_space = convert_space(observation_space, name)
        self.action_space = convert_space(action_space, name)
        self._copies, self._name = copies, name
        self._observation_leaves = [
            (nested.leaf_shape(leaf), _NUMPY[nested.leaf_dtype(leaf)], start)
            for leaf, start in zip(nested.leaf_spaces(self.observation_space), _starts(observation_space), strict=True)
        ]
        self._action_leaves = [
            (leaf, (copies, *nested.leaf_shape(leaf)), native.dtype, start)
            for leaf, native, start in zip(
                nested.leaf_spaces(self.action_space), _native_leaves(action_space), _starts(action_space), strict=True
            )
        ]

    def arrays(self, actions: Nested) -> list[np.ndarray]:
        """Copies of the action's leaves [B, ...] as the simulator types and counts them. Raises GameError."""
        try:
            tensors: list[Any] = nested.leaf_values(self.action_space, actions)
        except (KeyError, TypeError, ValueError) as error:
            raise GameError(f"{self._name} was given an action that is not built like {self.action_space}") from error
        arrays: list[np.ndarray] = []
        for tensor, (leaf, shape, dtype, start) in zip(tensors, self._action_leaves, strict=True):
            if not isinstance(tensor, Tensor) or tensor.shape != shape:
                given = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"type {type(tensor).__name__}"
                raise GameError(f"{self._name} was given actions of {given}; {self._copies} copies need a tensor of shape {shape}")
            array = tensor.detach().cpu().numpy()
            if not isinstance(leaf, Box):
                self._check_integers(leaf, array)
            # A copy: environments may keep the action they were given, and the caller may reuse its memory.
            array = array.astype(dtype)
            arrays.append(array if start is None else array + start)
        return arrays

    def rows(self, actions: Nested) -> Sequence[Any] | np.ndarray:
        """One action per copy, as a single environment takes it. Raises GameError."""
        arrays: list[Any] = [
            array.tolist() if isinstance(leaf, Discrete) else array
            for array, (leaf, *_) in zip(self.arrays(actions), self._action_leaves, strict=True)
        ]
        if not isinstance(self.action_space, TupleSpace | DictSpace):
            return arrays[0]
        return [nested.from_leaves(self.action_space, [array[b] for array in arrays]) for b in range(self._copies)]

    def stack(self, observations: Sequence[Any]) -> Nested:
        """One observation per copy -> fresh tensors [B, ...]: later steps never write into them."""
        if not isinstance(self.observation_space, TupleSpace | DictSpace):
            return self._stack_leaf(0, observations)
        rows = [nested.leaf_values(self.observation_space, observation) for observation in observations]
        return nested.from_leaves(self.observation_space, [self._stack_leaf(i, leaf) for i, leaf in enumerate(zip(*rows, strict=True))])

    def batch(self, observations: Any) -> list[np.ndarray]:
        """The leaves [B, ...] of a vector environment's observations, copied and in our types."""
        leaves = nested.leaf_values(self.observation_space, observations)
        return [
            np.array(leaf if start is None else leaf - start, dtype)
            for leaf, (_, dtype, start) in zip(leaves, self._observation_leaves, strict=True)
        ]

    def check(self, observation: Any) -> None:
        """Raises GameError where a single observation contradicts the space: numpy would silently repeat (1,) to (3,)."""
        leaves = nested.leaf_values(self.observation_space, observation)
        for value, (shape, _, _) in zip(leaves, self._observation_leaves, strict=True):
            if np.shape(value) != shape:
                raise GameError(f"{self._name} gave an observation of shape {np.shape(value)}; its observation space says {shape}")

    def _stack_leaf(self, i: int, values: Sequence[Any]) -> Tensor:
        shape, dtype, start = self._observation_leaves[i]
        stacked = np.empty((len(values), *shape), dtype)
        for b, value in enumerate(values):
            stacked[b] = value
        if start is not None:
            stacked -= start
        return torch.as_tensor(stacked)

    def _check_integers(self, leaf: nested.LeafSpace, array: np.ndarray) -> None:
        if array.dtype.kind not in "iub":
            raise GameError(f"{self._name} was given actions of type {array.dtype}; {leaf} needs integers")
        if isinstance(leaf, Discrete):
            sizes: Any = leaf.n
        else:
            sizes = np.array(leaf.sizes) if isinstance(leaf, MultiDiscrete) else 2
        if ((array < 0) | (array >= sizes)).any():
            raise GameError(f"{self._name} was given the action {array.tolist()}, which is outside {leaf}")


_NUMPY = {torch.float32: np.float32, torch.uint8: np.uint8, torch.int64: np.int64, torch.int8: np.int8}


def _native_leaves(space: Any) -> list[Any]:
    if isinstance(space, spaces.Tuple):
        return [leaf for child in space.spaces for leaf in _native_leaves(child)]
    if isinstance(space, spaces.Dict):
        return [leaf for key in sorted(space.spaces) for leaf in _native_leaves(space.spaces[key])]
    return [space]


def _starts(space: Any) -> list[Any]:
    """Where each leaf begins to count: Gymnasium's integers may start anywhere, ours start at zero. None: at zero."""
    starts = [getattr(leaf, "start", None) for leaf in _native_leaves(space)]
    return [start if start is not None and np.any(start) else None for start in starts]


def _check_seeds(seed: Sequence[int] | None, copies: int, name: str) -> None:
    if seed is not None and len(seed) != copies:
        raise GameError(f"{name} was given {len(seed)} seeds for {copies} copies; one per copy is needed")


class GymnasiumGame(Game):
    """A list of single environments, stepped one after the other and stacked.

    Observations are the environments' own at every step, the final one included. An environment of one's own may
    offer `snapshot()` with `restore(snapshot)`, and `draw(width, height)`; see `Restorable` and `Drawable`.
    """

    def __init__(self, factory: Callable[[], Any], copies: int, name: str) -> None:
        """factory makes one `gymnasium.Env`; name is what errors call this game."""
        if copies < 1:
            raise GameError(f"{name} was asked for in {copies} copies; at least one is needed")
        self.copies, self.name = copies, name
        self._envs: list[gymnasium.Env[Any, Any]] = [factory() for _ in range(copies)]
        self._edge = _Edge(self._envs[0].observation_space, self._envs[0].action_space, copies, name)
        self.observation_space, self.action_space = self._edge.observation_space, self._edge.action_space
        self._observations: list[Any] = [None] * copies
        self._seeded = [False] * copies
        self._playing = [False] * copies
        self._legal: np.ndarray | None = None
        """[B, n], where the environments say in `info["action_mask"]` which of n discrete actions may be taken."""
        self._success: np.ndarray | None = None
        """[B], where the environments say in `info["success"]` whether their task is done."""
        self._painters: dict[int, Any] = {}

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset. Raises GameError when a copy would start without ever having been seeded."""
        _check_seeds(seed, self.copies, self.name)
        for b in range(self.copies) if where is None else np.flatnonzero(where.cpu()):
            if seed is None and not self._seeded[b]:
                raise GameError(f"copy {b} of {self.name} was reset without a seed; the first reset needs one per copy")
            self._observations[b], info = self._envs[b].reset(seed=None if seed is None else int(seed[b]))
            self._edge.check(self._observations[b])
            if self._legal is None and "action_mask" in info and isinstance(self.action_space, Discrete):
                self._legal = np.ones((self.copies, self.action_space.n), np.bool_)
            self._note_legal(int(b), info)
            if self._success is not None:
                self._success[b] = False
            self._seeded[b] = self._playing[b] = True
        if not all(self._seeded):
            raise GameError(f"copy {self._seeded.index(False)} of {self.name} has never been reset; the first reset must be of all copies")
        return self._edge.stack(self._observations)

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for an action of a wrong shape or type and for a copy that awaits its reset."""
        if not all(self._playing):
            raise GameError(f"copy {self._playing.index(False)} of {self.name} was stepped outside an episode; reset it first")
        rows = self._edge.rows(actions)
        observations, playing = self._observations, self._playing
        reward = np.empty(self.copies, np.float32)
        flags = np.ones((3, self.copies), np.bool_)
        for b, env in enumerate(self._envs):
            observations[b], reward[b], terminated, truncated, info = env.step(rows[b])
            self._note_legal(b, info)
            if "success" in info:
                self._note_success(b, bool(info["success"]))
            flags[0, b] = terminated
            flags[1, b] = boundary = terminated or truncated
            playing[b] = not boundary
        terminations, boundaries, mask = torch.as_tensor(flags).unbind()
        return Step(self._edge.stack(observations), torch.as_tensor(reward), terminations, boundaries, mask)

    def legal(self) -> Bool[Tensor, "B K"] | None:
        """As Game.legal: what the environments last said, where they say it, as Taxi does."""
        return None if self._legal is None else torch.tensor(self._legal)

    def success(self) -> Bool[Tensor, "B"] | None:
        """As Game.success: what the environments last said, where they say it, as Meta-World's do."""
        return None if self._success is None else torch.tensor(self._success)

    def _note_legal(self, copy: int, info: dict[str, Any]) -> None:
        if self._legal is None:
            return
        mask: Any = info.get("action_mask")
        if np.shape(mask) != self._legal.shape[1:]:
            given = "none" if mask is None else f"one of shape {np.shape(mask)}"
            raise GameError(f"{self.name} began with a mask of {self._legal.shape[1]} actions in its info and now gave {given}")
        self._legal[copy] = mask

    def _note_success(self, copy: int, said: bool) -> None:
        if self._success is None:
            self._success = np.zeros(self.copies, np.bool_)
        self._success[copy] = said

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot. Raises CannotSnapshot with the reason."""
        if not self._seeded[copy]:
            raise GameError(f"copy {copy} of {self.name} has no state yet; reset it first")
        leaves = nested.leaves(self._edge.stack([self._observations[copy]]))
        return {
            "game": self.name,
            "environment": snapshot_environment(self._envs[copy], self.name),
            # Kept and not recomputed: an observation may show what the simulation no longer holds.
            "observation": [leaf[0] for leaf in leaves],
            "playing": self._playing[copy],
            "legal": None if self._legal is None else torch.tensor(self._legal[copy]),
        }

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """As Game.restore, also into a game that has never been reset. Raises CannotSnapshot with the reason."""
        if snapshot["game"] != self.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.name}")
        restore_environment(self._envs[copy], snapshot["environment"], self.name)
        leaves = [torch.as_tensor(leaf).clone() for leaf in snapshot["observation"]]
        starts = _starts(self._envs[copy].observation_space)
        native = [leaf.numpy() if start is None else leaf.numpy() + start for leaf, start in zip(leaves, starts, strict=True)]
        self._observations[copy] = nested.from_leaves(self.observation_space, native)
        self._playing[copy], self._seeded[copy] = bool(snapshot["playing"]), True
        if self._success is not None:
            self._success[copy] = False
        if snapshot.get("legal") is not None:
            mask: np.ndarray = torch.as_tensor(snapshot["legal"]).numpy()
            self._legal = np.ones((self.copies, len(mask)), np.bool_) if self._legal is None else self._legal
            self._legal[copy] = mask
        return nested.from_leaves(self.observation_space, [leaf.clone() for leaf in leaves])

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """As Game.render. A world with pictures of one size only is scaled to fit."""
        if not self._seeded[copy]:
            raise GameError(f"copy {copy} of {self.name} has nothing to draw yet; reset it first")
        env = self._envs[copy]
        core: Any = env.unwrapped
        if isinstance(core, Drawable):
            return core.draw(width, height)
        if is_mujoco(core):
            return self._painter(copy, core).paint(core.data, width, height)
        if env.render_mode != "rgb_array":
            raise GameError(f"{self.name} has no picture: its render_mode is {env.render_mode!r}, and drawing needs 'rgb_array'")
        _prepare_pygame()
        return _fit(np.asarray(env.render()), width, height)

    def close(self) -> None:
        for painter in self._painters.values():
            painter.close()
        self._painters.clear()
        for env in self._envs:
            env.close()

    def _painter(self, copy: int, core: Any) -> Any:
        # Gymnasium's own renderer draws in one size, with every effect on: 5 to 10 times slower in software.
        from tutelage.games.mujoco import Painter, free_camera

        if copy not in self._painters:
            view = core.mujoco_renderer
            camera = (
                view.camera_id
                if view.camera_id is not None and view.camera_id >= 0
                else free_camera(core.model, view.default_cam_config or {})
            )
            self._painters[copy] = Painter(core.model, camera)
        return self._painters[copy]


class VectorGame(Game):
    """Any `gymnasium.vector.VectorEnv` that names its autoreset mode.

    NextStep: the world spends one step on a reset; `reset(where)` returns the last observation for these copies, the
    action that follows is ignored, and that Step has `mask` false and the first observation of the new episode.
    SameStep: the Step carries the true successor, `reset(where)` returns the observation the world already began with.
    Disabled: `reset(where)` resets.

    A vector environment with one generator for all its copies is seeded by one integer derived from all seeds.
    """

    def __init__(self, vector_env: Any, name: str = "a vector environment") -> None:
        """Raises GameError for an environment without a known autoreset mode."""
        mode = vector_env.metadata.get("autoreset_mode")
        try:
            self._mode = AutoresetMode(mode)
        except ValueError as error:
            known = ", ".join(known.value for known in AutoresetMode)
            raise GameError(f"{name} has the autoreset mode {mode!r}; known are {known}") from error
        self._env: VectorEnv[Any, Any, Any] = vector_env
        self.copies, self.name = int(vector_env.num_envs), name
        self._edge = _Edge(vector_env.single_observation_space, vector_env.single_action_space, self.copies, name)
        self.observation_space, self.action_space = self._edge.observation_space, self._edge.action_space
        self._current: list[np.ndarray] = []
        """Leaves of what `reset` returns; a copy of what Steps carry."""
        self._ended: np.ndarray = np.ones(self.copies, np.bool_)
        """Copies that must be reset before they are stepped."""
        self._resetting: np.ndarray = np.zeros(self.copies, np.bool_)
        """NextStep: copies that spend the next step on their reset."""
        self._begun: list[np.ndarray] = []
        """SameStep: leaves of what the world shows, which at an end is the new episode's first observation."""

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset. Raises GameError when a copy would have to restart in mid-episode and its world cannot."""
        _check_seeds(seed, self.copies, self.name)
        chosen: np.ndarray = np.ones(self.copies, np.bool_) if where is None else np.asarray(where.cpu())
        if seed is None and not self._current:
            raise GameError(f"{self.name} was reset without seeds; the first reset needs one per copy")
        if not self._current and not chosen.all():
            raise GameError(f"{self.name} has never been reset; the first reset must be of all copies")
        if where is None or seed is not None:
            forced, options = chosen, None if chosen.all() else {"reset_mask": chosen.copy()}
        else:
            forced = chosen if self._mode is AutoresetMode.DISABLED else chosen & ~self._ended & ~self._resetting
            options = {"reset_mask": forced.copy()}
        if forced.any():
            if options is not None and self._mode is not AutoresetMode.DISABLED and not self._resets_singly():
                raise GameError(
                    f"copy {int(forced.argmax())} of {self.name} is in mid-episode, and its world can only restart all copies at once"
                )
            observations, _ = self._env.reset(seed=self._seeds(seed), options=options)
            self._write(self._edge.batch(observations), forced)
        restarted = chosen & ~forced
        if self._mode is AutoresetMode.NEXT_STEP:
            self._resetting = (self._resetting & ~forced) | restarted
        elif self._mode is AutoresetMode.SAME_STEP and restarted.any():
            self._write(self._begun, restarted)
        self._ended = self._ended & ~chosen
        return self._tree(self._current)

    def step(self, actions: Nested) -> Step:
        """As Game.step; `mask` is false where the world spent this step on a reset."""
        if self._ended.any():
            raise GameError(f"copy {int(self._ended.argmax())} of {self.name} was stepped outside an episode; reset it first")
        batch = nested.from_leaves(self.action_space, self._edge.arrays(actions))
        observations, rewards, terminations, truncations, infos = self._env.step(batch)
        mask: np.ndarray = ~self._resetting
        terminated: np.ndarray = np.asarray(terminations, np.bool_) & mask
        boundary: np.ndarray = (terminated | np.asarray(truncations, np.bool_)) & mask
        self._current = self._edge.batch(observations)
        if self._mode is AutoresetMode.SAME_STEP and boundary.any():
            if "final_obs" not in infos:
                raise GameError(f"{self.name} resets in the same step and hides the final observation: its infos have no 'final_obs'")
            self._begun = [leaf.copy() for leaf in self._current]
            for b in np.flatnonzero(boundary):
                for leaf, last in zip(self._current, nested.leaves(self._edge.stack([infos["final_obs"][b]])), strict=True):
                    leaf[b] = last[0].numpy()
        self._ended, self._resetting = boundary.copy(), np.zeros(self.copies, np.bool_)
        reward = np.where(mask, rewards, 0.0).astype(np.float32)
        flags = (torch.as_tensor(flag) for flag in (terminated, boundary, mask))
        return Step(self._tree(self._current), torch.as_tensor(reward), *flags)

    def snapshot(self, copy: int) -> Snapshot:
        raise CannotSnapshot(f"copy {copy} of {self.name} cannot be read out of a vector environment; make the game by its address instead")

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        raise CannotSnapshot(
            f"copy {copy} of {self.name} cannot be put back into a vector environment; make the game by its address instead"
        )

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """As Game.render, where the vector environment was made with render_mode='rgb_array'."""
        if self._env.render_mode != "rgb_array":
            raise GameError(f"{self.name} has no picture: its render_mode is {self._env.render_mode!r}, and drawing needs 'rgb_array'")
        _prepare_pygame()
        frames = cast("Sequence[np.ndarray]", self._env.render())
        return _fit(np.asarray(frames[copy]), width, height)

    def close(self) -> None:
        self._env.close()

    def _tree(self, leaves: list[np.ndarray]) -> Nested:
        return nested.from_leaves(self.observation_space, [torch.as_tensor(leaf.copy()) for leaf in leaves])

    def _write(self, leaves: list[np.ndarray], where: np.ndarray) -> None:
        if not self._current:
            self._current = leaves
        for current, leaf in zip(self._current, leaves, strict=True):
            current[where] = leaf[where]

    def _resets_singly(self) -> bool:
        return isinstance(self._env.unwrapped, SyncVectorEnv | AsyncVectorEnv)

    def _seeds(self, seed: Sequence[int] | None) -> Any:
        if seed is None or self._resets_singly():
            return None if seed is None else [int(entry) for entry in seed]
        return int(np.random.SeedSequence([int(entry) for entry in seed]).generate_state(1)[0])


def known_ids() -> list[str]:
    """Every id that is registered with Gymnasium."""
    return sorted(gymnasium.registry)


def make_gymnasium(identifier: str, copies: int, **options: Any) -> GymnasiumGame:
    """The environment `identifier` of Gymnasium's registry, in `copies`; `options` go to its constructor.

    It is made with render_mode="rgb_array" where it can draw. In classic control and MuJoCo that costs nothing until a
    picture is asked for; where it does (LunarLander draws exhaust), render_mode=None trains without.
    """
    name = f"gym:{identifier}"
    spec = gymnasium.spec(identifier)
    try:
        creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        metadata: dict[str, Any] = getattr(creator, "metadata", None) or {}
        if "rgb_array" in metadata.get("render_modes", ()):
            options = {"render_mode": "rgb_array", **options}
        # The checker would repeat, at every step, a part of what `_Edge` checks at every reset.
        return GymnasiumGame(lambda: gymnasium.make(spec, disable_env_checker=True, **options), copies, name)
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise GameError(f"{name} needs a package that is not installed ({error}); run: pip install 'tutelage[control]'") from error
    # ImportError is how Gymnasium says that an old version of a world has moved elsewhere.
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise GameError(f"{name} cannot be made with the options {options}: {error}") from error


def _prepare_pygame() -> None:
    """Classic control draws into memory by pygame, which would look for a screen and greet on standard output."""
    if "pygame" not in sys.modules:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


def _fit(picture: np.ndarray, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """Scaled to fit, its aspect kept, on a ground of its own corner's color."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale)))
    channels = torch.tensor(picture).permute(2, 0, 1)[None].float()
    small = interpolate(channels, size, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    fitted = np.empty((height, width, 3), np.uint8)
    fitted[:] = picture[0, 0]
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    fitted[top : top + size[0], left : left + size[1]] = small
    return fitted
