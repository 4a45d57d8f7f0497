"""A policy and a value of states, side by side in one stacked body."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor
from torch.nn.functional import pad

from tutelage.games.spec import GameError, Space
from tutelage.nets.body import Body, make_body
from tutelage.nets.heads import Head, make_head
from tutelage.nets.initialization import fill_orthogonal
from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry, Memory

POLICY_GAIN = 0.01
"""Of the policy's last layer: the first actions hardly depend on what is seen (Andrychowicz et al. 2021, arXiv 2006.05990, section 3.2)."""


@dataclass(frozen=True)
class ActorCritic:
    """Policy and value are the two members of one body, hence one batched product; or one `shared` body with an output more.

    The two members are equally wide: the value reads the first output of its own, the others get no gradient. What a memory carries has
    the shape `[R, 2, B, H]`, policy and value, or `[R, B, H]` where the body is shared; that of the policy alone is always `[R, B, H]`.
    Observations are `[R, N, *O]`, or `[R, T, B, *O]` with `starts` and a carry, which nets with memory need and others ignore.
    """

    head: Head
    body: Body
    """Of policy and value."""
    half: Body
    """Of either, alone; the same as `body` where it is shared."""
    shared: bool
    policy_width: int | None = None
    """The policy sees so many entries of an observation, the first ones, and zeros for the rest. None: all."""

    @property
    def members(self) -> int:
        """R."""
        return self.half.mlp.members[0]

    @property
    def remembers(self) -> bool:
        """Whether there is a memory."""
        return self.half.recurrent is not None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight."""
        return self.body.shapes() | self.head.shapes(self.members)

    def initialize(self, parameters: Parameters, generators: Sequence[Generator]) -> None:
        """Orthogonal, with gain 1 for the value's last layer and POLICY_GAIN for the policy's."""
        self.body.initialize(parameters, generators, output_gain=1.0)
        last = parameters.weights[f"weight_{len(self.body.mlp.sizes) - 2}"]
        (last[..., :-1] if self.shared else last[:, 0]).mul_(POLICY_GAIN)

    def narrowed(self, policy_width: int, parameters: Parameters, generators: Sequence[Generator]) -> "ActorCritic":
        """The same nets, whose policy sees the first `policy_width` entries only (Pinto et al. 2018, arXiv 1710.06542: asymmetric).

        Its first layer starts anew, orthogonal on what it sees; the weights of what it does not see are 0 and get no gradient.
        Raises GameError where policy and value share a body, through which the policy would see all.
        """
        if self.shared:
            raise GameError(f"a policy was to see {policy_width} entries and its value more; with one body for both (shared) it cannot")
        first, last = parameters.weights["weight_0"][:, 0], len(self.half.mlp.sizes) == 2
        first[:, policy_width:] = 0.0
        fill_orthogonal(first[:, :policy_width], 2, POLICY_GAIN if last else 2.0**0.5, generators)
        return replace(self, policy_width=policy_width)

    def _of_policy(self, observation: Shaped[Tensor, "R *n_and_O"]) -> Shaped[Tensor, "R *n_and_W"]:
        """What the policy sees; an observation that holds no more than this is enough."""
        if self.policy_width is None:
            return observation
        return pad(observation[..., : self.policy_width], (0, self.half.mlp.sizes[0] - self.policy_width))

    def halves(self, weights: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The weights of the policy's body and of the value's, as views."""
        if self.shared:
            return weights, weights
        policy, value = ({name: weights[name][:, which] for name in self.half.shapes()} for which in (0, 1))
        return policy, value

    def policy(
        self,
        weights: Mapping[str, Tensor],
        observation: Shaped[Tensor, "R *n_and_O"],
        starts: Bool[Tensor, "R T B"] | None = None,
        carry: Carry | None = None,
        half: Mapping[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "R *n W"], Float[Tensor, "R T B H"] | None]:
        """Parameters of the distribution over actions, and the carry after each step. half: as `halves` gives it, if at hand."""
        half = self.halves(weights)[0] if half is None else half
        output, carries = _output(self.half, half, self._of_policy(observation), starts, carry)
        return self.head.parameters(output[..., :-1] if self.shared else output, weights), carries

    def value(
        self,
        weights: Mapping[str, Tensor],
        observation: Shaped[Tensor, "R *n_and_O"],
        starts: Bool[Tensor, "R T B"] | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "R *n"]:
        """Values of the states; carry: the value's own."""
        return _output(self.half, self.halves(weights)[1], observation, starts, carry)[0][..., -1 if self.shared else 0]

    def both(
        self,
        weights: Mapping[str, Tensor],
        observation: Shaped[Tensor, "R *n_and_O"],
        starts: Bool[Tensor, "R T B"] | None = None,
        carry: Carry | None = None,
    ) -> tuple[Float[Tensor, "R *n W"], Float[Tensor, "R *n"], Tensor | None]:
        """Parameters of the distribution, values, and the carry of both after each step, `[R, 2, T, B, H]` or `[R, T, B, H]`."""
        if self.shared:
            output, carries = _output(self.body, weights, observation, starts, carry)
            return self.head.parameters(output[..., :-1], weights), output[..., -1], carries
        if self.policy_width is None:
            observation = observation[:, None].expand(-1, 2, *observation.shape[1:])
        else:
            observation = torch.stack([self._of_policy(observation), observation], 1)
        starts = None if starts is None else starts[:, None].expand(-1, 2, -1, -1)
        output, carries = _output(self.body, weights, observation, starts, carry)
        policy, value = output.unbind(1)
        return self.head.parameters(policy, weights), value[..., 0], carries

    def policy_carry(self, carry: Carry | None) -> Carry | None:
        """The policy's part of a carry of both."""
        return carry if carry is None or self.shared else Carry(carry.state[:, 0])

    def value_carry(self, carry: Carry | None) -> Carry | None:
        """The value's part of a carry of both."""
        return carry if carry is None or self.shared else Carry(carry.state[:, 1])


def _output(
    body: Body, weights: Mapping[str, Tensor], observation: Tensor, starts: Tensor | None, carry: Carry | None
) -> tuple[Tensor, Tensor | None]:
    if body.recurrent is None or starts is None:
        return body(weights, observation), None
    return body.trace(weights, observation, carry, starts)


def make_actor_critic(
    observation_shape: tuple[int, ...],
    action_space: Space,
    hidden: tuple[int, ...],
    members: int,
    shared: bool = False,
    memory: Memory = "none",
    activation: str = "tanh",
) -> ActorCritic:
    """Raises GameError or ValueError for what `make_head` and `make_body` refuse."""
    head = make_head(action_space)
    outputs = head.outputs + shared
    half = make_body(observation_shape, hidden, outputs, (members,), memory, activation)
    body = half if shared else make_body(observation_shape, hidden, outputs, (members, 2), memory, activation)
    return ActorCritic(head, body, half, shared)
