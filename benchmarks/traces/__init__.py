"""What users did at a map: recorded once, played again in every run. `python -m benchmarks.traces` records it anew.

A user pans in bursts, half a viewport every 150 to 300 ms in about one direction, sometimes zooms, and then looks at
what is there for a while. Positions are shares of the scene, so one trace fits any scene.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "pan_zoom.json"
SEED = 7
USERS = 64
SECONDS = 30.0
# Width and height of the map in pixels, and what a scene of the demo's size is at its native zoom, in tiles.
WINDOW = (1200, 720)
SCENE_TILES = 20
CONNECTIONS = (6, 6, 16)  # two on HTTP/1.1 for each on HTTP/2, as far as the server can tell


@dataclass(frozen=True, slots=True)
class Step:
    """The map shows something else now: `at` seconds after the beginning, centre and zoom as in `looking_at`."""

    at: float
    x: float
    y: float
    dz: int


@dataclass(frozen=True, slots=True)
class User:
    """One user's steps, and the connections that the client opens."""

    connections: int
    steps: tuple[Step, ...]


def record(seed: int = SEED, users: int = USERS, seconds: float = SECONDS) -> list[User]:
    """Invent users. The same seed gives the same users, and fewer users the first of them."""
    return [_user(random.Random(seed * 1000 + number), number, seconds) for number in range(users)]


def _user(chance: random.Random, number: int, seconds: float) -> User:
    x, y, dz = chance.uniform(0.2, 0.8), chance.uniform(0.2, 0.8), 0
    at = chance.uniform(0, 0.5)
    steps = [Step(round(at, 3), round(x, 4), round(y, 4), dz)]
    while at < seconds:
        at += chance.uniform(0.8, 3.0)  # looks
        if chance.random() < 0.25:
            dz = chance.choice([level for level in (-1, 0, 1) if level != dz])
            steps.append(Step(round(at, 3), round(x, 4), round(y, 4), dz))
            at += chance.uniform(0.3, 1.0)
        heading = chance.uniform(0, 2 * math.pi)
        for _ in range(chance.randint(2, 8)):
            heading += chance.gauss(0, 0.25)
            span = SCENE_TILES * 2.0**dz
            move_x, move_y = (side / 256 / 2 / span for side in WINDOW)
            x += math.cos(heading) * move_x
            y += math.sin(heading) * move_y
            if not (0.1 <= x <= 0.9 and 0.1 <= y <= 0.9):
                heading += math.pi
                x, y = min(max(x, 0.1), 0.9), min(max(y, 0.1), 0.9)
            steps.append(Step(round(at, 3), round(x, 4), round(y, 4), dz))
            at += chance.uniform(0.15, 0.30)
    return User(CONNECTIONS[number % len(CONNECTIONS)], tuple(step for step in steps if step.at < seconds))


def write(users: list[User], file: Path = FILE) -> None:
    """Keep a trace: a line for each user, [seconds, x, y, zoom] for each step."""
    lines = [
        json.dumps({"connections": user.connections, "steps": [[s.at, s.x, s.y, s.dz] for s in user.steps]})
        for user in users
    ]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read(file: Path = FILE) -> list[User]:
    """The recorded trace."""
    kept: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return [User(user["connections"], tuple(Step(*step) for step in user["steps"])) for user in kept]
