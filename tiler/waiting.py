"""What waits to be inferred, and whose turn it is. Decisions only: no threads, no clock, no arrays.

Map clients send bursts and drop most of them while the user pans. So the newest viewport of a client comes first,
clients take turns, and exports get what is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from tiler.values import Cell
from tiler.windows import Block, Shape, form

# Requests of one client at one zoom that follow each other this closely (seconds) belong to one viewport.
VIEWPORT_GAP = 0.25


class Origin(NamedTuple):
    """Who asks. `level` tells one client's viewports apart (a zoom); `export` gives way to everybody else."""

    client: str = ""
    level: Hashable = None
    export: bool = False


class LayerLike(Protocol):
    """What the queue has to know of a layer."""

    @property
    def revision(self) -> str:
        """Tells layers apart."""
        ...

    @property
    def shape(self) -> Shape:
        """How large its windows may get."""
        ...


Layer = TypeVar("Layer", bound=LayerLike)


class Stack(NamedTuple):
    """Cells are merged only with others of the same layer and kind."""

    revision: str
    probabilities: bool


@dataclass(eq=False, slots=True)
class Ask:
    """One request's cells that are still to be formed into windows, in the order in which they were asked for."""

    stack: Stack
    cells: dict[Cell, None]
    viewport: int


@dataclass(frozen=True, slots=True)
class Job(Generic[Layer]):
    """A block that a reader takes now. `taken`: its cells that waited; the others only fill the rectangle."""

    layer: Layer
    probabilities: bool
    block: Block
    taken: frozenset[Cell]


@dataclass(slots=True)
class _Client:
    """One client's asks, and where its newest viewport began."""

    asks: OrderedDict[int, Ask] = field(default_factory=OrderedDict)
    level: Hashable = None
    last: float = float("-inf")
    viewport: int = 0


class Waiting(Generic[Layer]):
    """The queue of cells. Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._layers: dict[Stack, Layer] = {}
        self._cells: dict[Stack, dict[Cell, int]] = {}
        # Clients in the order of their turn; those who export are a queue of their own.
        self._clients: tuple[OrderedDict[str, _Client], OrderedDict[str, _Client]] = (OrderedDict(), OrderedDict())
        self._numbers = 0

    def __len__(self) -> int:
        return sum(len(cells) for cells in self._cells.values())

    def add(self, layer: Layer, probabilities: bool, cells: Iterable[Cell], origin: Origin, now: float) -> None:
        """Queue cells that are new in flight, or wait already: those come as early as the newer request."""
        stack = Stack(layer.revision, probabilities)
        wanted = dict.fromkeys(cells)
        if not wanted:
            return
        clients = self._clients[origin.export]
        client = clients.setdefault(origin.client, _Client())
        if origin.level != client.level or now - client.last > VIEWPORT_GAP:
            client.viewport += 1
        client.level, client.last = origin.level, now
        self._numbers += 1
        client.asks[self._numbers] = Ask(stack, wanted, client.viewport)
        self._layers[stack] = layer
        waiting = self._cells.setdefault(stack, {})
        for cell in wanted:
            waiting[cell] = self._numbers

    def holds(self, revision: str, probabilities: bool, cell: Cell) -> bool:
        """Whether a cell waits here."""
        return cell in self._cells.get(Stack(revision, probabilities), ())

    def drop(self, revision: str, probabilities: bool, cell: Cell) -> bool:
        """Forget a cell that nobody waits for any more. False when it does not wait here: then a reader has it."""
        stack = Stack(revision, probabilities)
        here = self._cells.get(stack, {}).pop(cell, None) is not None
        self._tidy(stack)
        return here

    def next(self, *, idle: bool = False, max_pixels: int | None = None) -> Job[Layer] | None:
        """Take the next block: its cells leave the queue. None when nothing waits.

        Args:
            idle: True when no device has anything to do; then the first window stays small.
            max_pixels: see `windows.form`.
        """
        for clients in self._clients:
            for name in list(clients):
                client = clients[name]
                ask = self._newest(client)
                if ask is None:
                    del clients[name]
                    continue
                # The client's turn is over: the next goes to whoever has waited longest for one.
                clients.move_to_end(name)
                waiting, layer = self._cells[ask.stack], self._layers[ask.stack]
                block = form(waiting, ask.cells, layer.shape, first=idle, max_pixels=max_pixels)
                taken = frozenset(cell for cell in block.cells() if waiting.pop(cell, None) is not None)
                self._tidy(ask.stack)
                return Job(layer, ask.stack.probabilities, block, taken)
        return None

    def clear(self) -> None:
        """Forget everything."""
        self._layers.clear()
        self._cells.clear()
        for clients in self._clients:
            clients.clear()

    def _newest(self, client: _Client) -> Ask | None:
        """The oldest ask of the client's newest viewport that has cells waiting; asks without any are forgotten."""
        best: Ask | None = None
        for number, ask in list(client.asks.items()):
            waiting = self._cells.get(ask.stack, {})
            for cell in [cell for cell in ask.cells if cell not in waiting]:
                del ask.cells[cell]
            if not ask.cells:
                del client.asks[number]
            elif best is None or ask.viewport > best.viewport:
                best = ask
        return best

    def _tidy(self, stack: Stack) -> None:
        if stack in self._cells and not self._cells[stack]:
            del self._cells[stack], self._layers[stack]
        if not self._cells:
            # Asks whose cells were all dropped would otherwise be remembered until the next window.
            for clients in self._clients:
                clients.clear()
