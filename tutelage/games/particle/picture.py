"""Pictures of particle worlds: disks with soft edges, drawn by their distance from each pixel."""

import numpy as np
from jaxtyping import Float, UInt8

from tutelage.games.particle.physics import State
from tutelage.games.particle.world import World

PAPER, GRID, INK = (246, 246, 242), (228, 228, 222), (58, 62, 70)
LANDMARK, AREA, GOAL = (122, 126, 134), (132, 196, 140), (64, 148, 84)
TEAMS = ((52, 104, 192), (206, 78, 66), (226, 160, 40), (120, 84, 170))
"""Fill colors of agents by team."""

Window = tuple[slice, slice]
"""Rows and columns of a picture."""


class Canvas:
    """A square of the plane around the origin, seen from above, y upwards."""

    def __init__(self, half: float, width: int, height: int) -> None:
        """half: what is at least seen to each side of the origin."""
        scale = min(width, height) / (2.0 * half)
        self.x = ((np.arange(width) + 0.5 - width / 2.0) / scale)[None, :]
        self.y = ((height / 2.0 - np.arange(height) - 0.5) / scale)[:, None]
        self.pixel = 1.0 / scale
        self.color = np.broadcast_to(np.array(PAPER, np.float64), (height, width, 3)).copy()

    def paint(self, outside: Float[np.ndarray, "rows columns"], color: tuple[int, int, int], window: Window, opacity: float = 1.0) -> None:
        """Color where `outside`, the signed distance from the shape's edge, is negative; half of it on the edge. window: where it is."""
        cover = opacity * np.clip(0.5 - outside / self.pixel, 0.0, 1.0)[..., None]
        part = self.color[window]
        part *= 1.0 - cover
        part += cover * np.array(color, np.float64)

    def around(self, x: float, y: float, reach: float) -> tuple[Window, np.ndarray, np.ndarray]:
        """The pixels that a shape can touch which reaches so far from (x, y), and where they lie from there."""
        reach += self.pixel
        columns = slice(*np.searchsorted(self.x[0], (x - reach, x + reach)))
        rows = slice(*np.searchsorted(-self.y[:, 0], (-y - reach, reach - y)))
        return (rows, columns), self.x[:, columns] - x, self.y[rows] - y

    def disk(self, x: float, y: float, radius: float, color: tuple[int, int, int], opacity: float = 1.0) -> None:
        """Filled."""
        window, right, up = self.around(x, y, radius)
        self.paint(np.hypot(right, up) - radius, color, window, opacity)

    def ring(self, x: float, y: float, radius: float, thick: float, color: tuple[int, int, int], dashes: int = 0) -> None:
        """thick: in pixels. dashes: how many, 0 for an unbroken line."""
        window, right, up = self.around(x, y, radius + thick * self.pixel)
        outside = np.abs(np.hypot(right, up) - radius) - 0.5 * thick * self.pixel
        if dashes:
            angle = np.arctan2(up, right) * dashes / (2.0 * np.pi)
            gap = (0.25 - np.abs(angle - np.round(angle))) * 2.0 * np.pi * radius / dashes  # positive within a dash
            outside = np.maximum(outside, -gap)
        self.paint(outside, color, window)

    def line(self, x: float, y: float, dx: float, dy: float, thick: float, color: tuple[int, int, int]) -> None:
        """From (x, y), with round ends. thick: in pixels."""
        window, right, up = self.around(x, y, max(abs(dx), abs(dy)) + thick * self.pixel)
        along = np.clip((right * dx + up * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
        self.paint(np.hypot(right - along * dx, up - along * dy) - 0.5 * thick * self.pixel, color, window)

    def grid(self, spacing: float) -> None:
        """Thin lines every `spacing`."""
        for axis in (self.x, self.y):
            apart = np.abs(axis - spacing * np.round(axis / spacing)) - 0.5 * self.pixel
            self.paint(np.broadcast_to(apart, self.color.shape[:2]), GRID, (slice(None), slice(None)))


def draw(world: World, state: State, copy: int, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """One copy, with everything in view."""
    position, velocity, place = (part[..., copy].double().cpu().numpy() for part in (state.position, state.velocity, state.place))
    farthest = max(np.abs(position).max(initial=0.0) + max(world.agent_sizes), np.abs(place).max(initial=0.0))
    canvas = Canvas(1.05 * max(world.extent, float(farthest)), width, height)
    canvas.grid(world.extent / 4.0)
    goal = world.goal(state, copy)
    thin = max(1.0, min(width, height) / 256.0)
    for k, ((x, y), size) in enumerate(zip(place.T, world.landmark_sizes, strict=True)):
        if world.area is not None:
            canvas.disk(x, y, world.area, AREA, opacity=0.45)
            canvas.ring(x, y, world.area, 1.2 * thin, GOAL, dashes=14)
        canvas.disk(x, y, size, GOAL if k == goal else LANDMARK)
        canvas.ring(x, y, size, thin, INK)
    team_of = {agent: k for k, team in enumerate(world.players.teams) for agent in team}
    for i, ((x, y), (vx, vy), size) in enumerate(zip(position.T, velocity.T, world.agent_sizes, strict=True)):
        color = TEAMS[team_of[i] % len(TEAMS)]
        pen = min(thin, 0.15 * size / canvas.pixel)  # the color of a small disk still shows
        canvas.disk(x, y, size, color, opacity=0.85)
        canvas.ring(x, y, size, 1.4 * pen, INK)
        canvas.line(x, y, world.ahead * vx, world.ahead * vy, 2.0 * pen, INK)
    return np.round(canvas.color).astype(np.uint8)
