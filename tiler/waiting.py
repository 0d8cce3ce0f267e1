"""What waits to be inferred, and whose turn it is. Decisions only: no threads, no clock, no arrays.

Map clients send bursts and drop most of them while the user pans. So the newest viewport of a client comes first,
clients take turns, and exports get what is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from tiler.values import Cell
from tiler.windows import FIRST_PIXELS, Block, Shape, fitted, form

# Requests of one client at one zoom that follow another one, or an answer, this closely (seconds) are one viewport:
# a client with few connections asks for the rest of its view as they come free.
VIEWPORT_GAP = 0.25

# Who has stayed at a view for long will stay for long: a window may take twice as many seconds of the device as its
# client has looked at this view, within these bounds. Smaller ones when it has dropped requests lately, since it is
# likely to do so again, and smaller ones still when it has just done so.
PATIENCE = 2.0
LEAST_SECONDS, MOST_SECONDS = 0.25, 0.5
RESTLESS_SECONDS, PANNING_SECONDS = 0.3, 0.1

# A client that dropped requests so few seconds ago is restless.
RESTLESS = 5.0

# A client that dropped requests so few seconds ago is panning: the others come first. People drag a map on every 0.15
# to 0.3 s; what is begun for them in between is mostly not seen.
PANNING = 0.4

# Pixels that a window may have however slow the device is: below this the halo would cost more than the wait.
MIN_WINDOW_PIXELS = 384 * 384

KNOWN_CLIENTS = 4096


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
    probabilities: int


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
    probabilities: int
    block: Block
    taken: frozenset[Cell]


@dataclass(slots=True)
class _Client:
    """One client's asks, its newest viewport, and when it last left one (seconds)."""

    asks: OrderedDict[int, Ask] = field(default_factory=OrderedDict)
    level: Hashable = None
    began: float = float("-inf")
    last: float = float("-inf")
    dropped: float = float("-inf")
    viewport: int = 0

    def pans(self, now: float) -> bool:
        """Whether it has just left a view."""
        return now - self.dropped < PANNING

    def patience(self, now: float) -> float:
        """Seconds that a window for it may take on the device."""
        least = PANNING_SECONDS if self.pans(now) else LEAST_SECONDS
        most = RESTLESS_SECONDS if now - self.dropped < RESTLESS else MOST_SECONDS
        return min(most, max(least, PATIENCE * (now - self.began)))


class Waiting(Generic[Layer]):
    """The queue of cells. Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._layers: dict[Stack, Layer] = {}
        self._cells: dict[Stack, dict[Cell, int]] = {}
        # Clients in the order of their turn; those who export are a queue of their own.
        self._clients: tuple[OrderedDict[str, _Client], OrderedDict[str, _Client]] = (OrderedDict(), OrderedDict())
        # What is known of clients, also of those who ask for nothing now; the latest of them.
        self._known: OrderedDict[tuple[bool, str], _Client] = OrderedDict()
        self._numbers = 0

    def __len__(self) -> int:
        return sum(len(cells) for cells in self._cells.values())

    def add(self, layer: Layer, probabilities: int, cells: Iterable[Cell], origin: Origin, now: float) -> None:
        """Queue cells that are new in flight, or wait already: those come as early as the newer request."""
        stack = Stack(layer.revision, probabilities)
        wanted = dict.fromkeys(cells)
        if not wanted:
            return
        client = self._clients[origin.export].setdefault(origin.client, self._client(origin))
        if origin.level != client.level or now - client.last > VIEWPORT_GAP:
            client.viewport += 1
            client.began = now
        client.level, client.last = origin.level, now
        self._numbers += 1
        client.asks[self._numbers] = Ask(stack, wanted, client.viewport)
        self._layers[stack] = layer
        waiting = self._cells.setdefault(stack, {})
        for cell in wanted:
            waiting[cell] = self._numbers

    def holds(self, revision: str, probabilities: int, cell: Cell) -> bool:
        """Whether a cell waits here."""
        return cell in self._cells.get(Stack(revision, probabilities), ())

    def drop(self, revision: str, probabilities: int, cell: Cell) -> bool:
        """Forget a cell that nobody waits for any more. False when it does not wait here: then a reader has it."""
        stack = Stack(revision, probabilities)
        here = self._cells.get(stack, {}).pop(cell, None) is not None
        self._tidy(stack)
        return here

    def dropped(self, origin: Origin, now: float) -> None:
        """A client does not wait any more for something that it had asked for: it looks elsewhere now."""
        client = self._client(origin)
        client.began = client.dropped = now

    def answered(self, origin: Origin, now: float) -> None:
        """A client has got something that it had waited for; what it asks for now is the rest of the same viewport."""
        self._client(origin).last = now

    def next(self, now: float = 0.0, rate: float = 0.0) -> Job[Layer] | None:
        """Take the next block: its cells leave the queue. None when nothing waits.

        Args:
            now: seconds, of the same clock as in `add`.
            rate: pixels per second that the device lately did; 0 while unknown, the window stays small then.
        """
        for clients in self._clients:
            # Stable: inside of either group whoever has waited longest for a turn comes first.
            for name in sorted(clients, key=lambda name: clients[name].pans(now)):
                client = clients[name]
                ask = self._newest(client)
                if ask is None:
                    del clients[name]
                    continue
                # The client's turn is over: the next goes to whoever has waited longest for one.
                clients.move_to_end(name)
                waiting, layer = self._cells[ask.stack], self._layers[ask.stack]
                pixels = max(MIN_WINDOW_PIXELS, int(rate * client.patience(now))) if rate else FIRST_PIXELS
                block = form(waiting, ask.cells, layer.shape, max_pixels=pixels)
                block = fitted(block, ask.cells, self._requests(ask.stack), waiting, layer.shape, pixels)
                taken = frozenset(cell for cell in block.cells() if waiting.pop(cell, None) is not None)
                self._tidy(ask.stack)
                return Job(layer, ask.stack.probabilities, block, taken)
        return None

    def clear(self) -> None:
        """Forget everything."""
        self._layers.clear()
        self._cells.clear()
        self._forget_asks()

    def _client(self, origin: Origin) -> _Client:
        name = (origin.export, origin.client)
        client = self._known.setdefault(name, _Client())
        self._known.move_to_end(name)
        if len(self._known) > KNOWN_CLIENTS:
            self._known.popitem(last=False)
        return client

    def _forget_asks(self) -> None:
        for clients in self._clients:
            for client in clients.values():
                client.asks.clear()
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

    def _requests(self, stack: Stack) -> Iterator[Iterable[Cell]]:
        for clients in self._clients:
            for client in clients.values():
                yield from (ask.cells for ask in client.asks.values() if ask.stack == stack)

    def _tidy(self, stack: Stack) -> None:
        if stack in self._cells and not self._cells[stack]:
            del self._cells[stack], self._layers[stack]
        if not self._cells:
            # Asks whose cells were all dropped would otherwise be remembered until the next window.
            self._forget_asks()
