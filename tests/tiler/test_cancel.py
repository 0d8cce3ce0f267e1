"""A client that hangs up, through real servers and hosts' middleware: its work is dropped, and nobody else's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from tests.tiler.controlled import DEADLINE, World, at_rest, until, world
from tests.tiler.servers import Served, answer_of, call, foreign, get, serving, standalone
from tiler.middleware import CancelOnDisconnect, run_until_gone

APPS: dict[str, Callable[..., Served]] = {"standalone": standalone, "foreign": foreign}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(params=["h11", "httptools"])
def parser(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture(params=APPS)
def served(request: pytest.FixtureRequest, place: World) -> Iterator[Served]:
    """Windows are formed one at a time here, so that what is asked for behind the first one waits."""
    made = APPS[request.param](place, read_ahead=0)
    yield made
    made.runner.gate.open()
    made.engine.close()


def test_hanging_up_drops_what_waits_and_nobody_elses(served: Served, parser: str) -> None:
    engine, gate = served.engine, served.runner.gate
    busy, both, alone = served.paths[:3]
    with serving(served.app, parser) as port:
        before = gate.entered
        gate.hold()
        first = call(port, busy)
        gate.wait_for(before + 1)
        leader = call(port, both)
        until(lambda: engine.queued > 0, "the leader's cells")
        # Tiles share cells at their edges, so the leader may have shared some with the first one.
        shared = engine.counters.shared
        follower = call(port, both)
        until(lambda: engine.counters.shared > shared, "the follower")
        waiting = engine.queued
        lost = call(port, alone)
        until(lambda: engine.queued > waiting, "the cells that will be lost")
        lone, pending = engine.queued - waiting, engine.pending
        # The leader hangs up first; when the other's cells are gone, the server has heard of both.
        leader.close()
        lost.close()
        until(lambda: engine.queued == waiting, "the drop")
        assert engine.counters.dropped == lone and engine.pending == pending - lone
        gate.open()
        for connection in (first, follower):
            response = answer_of(connection)
            assert response.status == 200 and response.getheader("content-type") == "image/png"
        until(lambda: at_rest(engine))
        # The lost tile was not inferred for anybody.
        assert len(served.runner.shapes) == 2
        again = get(port, alone)
        assert again.status == 200 and again.getheader("x-cache") in ("miss", "shared")
        assert len(served.runner.shapes) == 3


@pytest.mark.slow
def test_hanging_up_on_an_endpoint_that_waits_in_a_thread_drops_its_work_too(served: Served, parser: str) -> None:
    """Point and preview are TiTiler's own, synchronous: their thread waits for the engine and cannot be cancelled."""
    engine, gate = served.engine, served.runner.gate
    tile = served.paths[0]
    root, _, query = tile.partition("?")
    prefix = root.partition("/tiles/")[0] if "/tiles/" in root else root.rsplit("/", 3)[0]
    with serving(served.app, parser) as port:
        before = gate.entered
        gate.hold()
        first = call(port, tile)
        gate.wait_for(before + 1)
        waiting, dropped = engine.queued, engine.counters.dropped
        lost = call(port, f"{prefix}/preview.png?{query}&output=confidence")
        until(lambda: engine.queued > waiting, "the preview's cells")
        lost.close()
        until(lambda: engine.queued == waiting, "the drop")
        assert engine.counters.dropped > dropped
        gate.open()
        assert answer_of(first).status == 200
        until(lambda: at_rest(engine))
        assert len(served.runner.shapes) == 1


@pytest.mark.slow
def test_sixty_aborted_bursts_leave_nothing_pending(served: Served, parser: str) -> None:
    engine, gate = served.engine, served.runner.gate
    with serving(served.app, parser) as port:
        before = gate.entered
        gate.hold()
        first = call(port, served.paths[0])
        gate.wait_for(before + 1)
        on_device = engine.pending
        for burst in range(60):
            connections = [call(port, path) for path in served.paths[1:]]
            if burst % 10 == 0:
                until(lambda: engine.queued > 0, "the burst")
            for connection in connections:
                connection.close()
        until(lambda: engine.queued == 0 and engine.pending == on_device, "the drop")
        gate.open()
        assert answer_of(first).status == 200
        until(lambda: at_rest(engine))
        assert len(served.runner.shapes) == 1 and engine.counters.refused == 0
        assert get(port, served.paths[1]).status == 200
        assert engine.healthy


def test_the_hosts_middleware_is_all_there(place: World) -> None:
    made = foreign(place)
    try:
        with serving(made.app) as port:
            response = get(port, made.paths[0])
            assert response.status == 200 and response.getheader("x-host") == "own"
            # TiTiler's own adds to ours.
            timing = str(response.msg.get_all("server-timing"))
            assert "total" in timing and "forward" in timing
    finally:
        made.engine.close()


def test_http_2_streams_that_are_reset_are_dropped(place: World) -> None:
    """One connection, three tiles, one of them reset: as a browser does it behind an HTTP/2 server."""
    pytest.importorskip("hypercorn", reason="hypercorn, the server for HTTP/2, is not installed")
    import h2.config
    import h2.connection
    import h2.events
    import hypercorn.asyncio
    import hypercorn.config

    made = standalone(place, read_ahead=0)
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.errorlog = None
    stop: list[Callable[[], object]] = []

    async def main() -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        await hypercorn.asyncio.serve(made.app, config, shutdown_trigger=over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    engine, gate = made.engine, made.runner.gate
    connection = socket.create_connection(address, DEADLINE)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    status: dict[int, str] = {}
    ended: set[int] = set()

    def ask(path: str) -> int:
        number = client.get_next_available_stream_id()
        names = {":method": "GET", ":path": path, ":scheme": "http", ":authority": "x"}
        client.send_headers(number, list(names.items()), end_stream=True)
        connection.sendall(client.data_to_send())
        return number

    def read_until(condition: Callable[[], object]) -> None:
        while not condition():
            for event in client.receive_data(connection.recv(65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    status[event.stream_id] = dict(event.headers)[":status"]
                elif isinstance(event, h2.events.DataReceived):
                    client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
            connection.sendall(client.data_to_send())

    try:
        client.initiate_connection()
        before = gate.entered
        gate.hold()
        first = ask(made.paths[0])
        gate.wait_for(before + 1)
        lost = ask(made.paths[1])
        until(lambda: engine.queued > 0)
        waiting = engine.queued
        kept = ask(made.paths[2])
        until(lambda: engine.queued > waiting)
        client.reset_stream(lost)
        connection.sendall(client.data_to_send())
        until(lambda: engine.counters.dropped > 0, "the drop")
        gate.open()
        read_until(lambda: {first, kept} <= ended)
        assert status == {first: "200", kept: "200"}
        until(lambda: at_rest(engine))
        assert len(made.runner.shapes) == 2
    finally:
        gate.open()
        connection.close()
        stop[0]()
        thread.join(DEADLINE)
        engine.close()


# The middleware alone


class Handlers:
    """Endpoints that tell what became of them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.ended: list[str] = []
        self.go = threading.Event()

    async def slow(self, request: Request) -> Response:
        name = request.method
        self.begun.append(name)
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.ended.append(name)
        return PlainTextResponse("ended")

    async def stream(self, request: Request) -> Response:
        async def parts() -> Any:
            self.begun.append("stream")
            try:
                for number in range(10**9):
                    yield f"{number}\n".encode()
                    await asyncio.sleep(0.001)
                    if self.go.is_set():
                        return
            finally:
                self.cancelled.append("stream")

        return StreamingResponse(parts())

    async def echo(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def broken(self, request: Request) -> Response:
        raise ValueError("broken")

    @property
    def app(self) -> Any:
        routes = [
            Route("/slow", self.slow, methods=["GET", "POST"]),
            Route("/stream", self.stream),
            Route("/echo", self.echo, methods=["GET", "POST", "PUT"]),
            Route("/broken", self.broken),
        ]
        return CancelOnDisconnect(Starlette(routes=routes))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_handler_is_cancelled_when_its_client_hangs_up(parser: str, method: str) -> None:
    handlers = Handlers()
    with serving(handlers.app, parser) as port:
        connection = call(port, "/slow", method)
        until(lambda: handlers.begun == [method])
        connection.close()
        until(lambda: handlers.cancelled == [method])
        handlers.go.set()
        assert get(port, "/slow").status == 200
        assert handlers.ended == ["GET"]


def test_a_stream_is_cancelled_when_its_client_hangs_up_and_whole_when_not(parser: str) -> None:
    handlers = Handlers()
    with serving(handlers.app, parser) as port:
        connection = call(port, "/stream")
        until(lambda: handlers.begun == ["stream"])
        assert connection.recv(10)
        connection.close()
        until(lambda: handlers.cancelled == ["stream"])
        handlers.go.set()
        response = get(port, "/stream")
        assert response.status == 200 and response.content.startswith(b"0\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_bodies_are_not_eaten(parser: str, method: str) -> None:
    size = 3_000_000
    with serving(Handlers().app, parser) as port:
        connection = call(port, "/echo")
        assert answer_of(connection).content == b"0"  # type: ignore[attr-defined]
        head = f"{method} /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        for sent in (head.encode() + b"x" * size, head.encode()):
            connection = socket.create_connection(("127.0.0.1", port), DEADLINE)
            connection.sendall(sent)
            if len(sent) < size:
                for _ in range(3):
                    connection.sendall(b"x" * (size // 3))
            assert answer_of(connection).content == str(size).encode()  # type: ignore[attr-defined]


def test_a_post_runs_to_its_end(parser: str) -> None:
    """It may change something; half of a change is worse than one that nobody hears of."""
    handlers = Handlers()
    with serving(handlers.app, parser) as port:
        connection = call(port, "/slow", "POST")
        until(lambda: handlers.begun == ["POST"])
        connection.close()
        # The server hears of another hang-up that came later.
        later = call(port, "/slow")
        until(lambda: "GET" in handlers.begun)
        later.close()
        until(lambda: handlers.cancelled == ["GET"])
        handlers.go.set()
        until(lambda: handlers.ended == ["POST"] or "POST" in handlers.cancelled)
        assert handlers.ended == ["POST"]


def test_an_error_of_the_handler_is_the_applications_to_answer(parser: str) -> None:
    with serving(Handlers().app, parser) as port:
        assert get(port, "/broken").status == 500
        assert get(port, "/echo").status == 200


# One handler and one connection, without a server


class Connection:
    """What an ASGI server would say of a connection."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def receive(self) -> Message:
        message = await self.messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    def close(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


def alone(main: Callable[[Connection], Awaitable[None]]) -> list[dict[str, Any]]:
    """Run on a loop; returns what asyncio complained of."""
    complaints: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(DEADLINE):
            await main(Connection())
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(bounded())
    return complaints


async def forever() -> None:
    await asyncio.Event().wait()


def test_a_handler_that_ends_leaves_no_listener_behind() -> None:
    async def main(connection: Connection) -> None:
        async def handler() -> None:
            await asyncio.sleep(0)

        await run_until_gone(handler, connection.receive)

    assert alone(main) == []


def test_the_handlers_own_error_is_raised() -> None:
    async def main(connection: Connection) -> None:
        async def handler() -> None:
            raise ValueError("own")

        with pytest.raises(ValueError, match="own"):
            await run_until_gone(handler, connection.receive)

    assert alone(main) == []


def test_an_error_on_the_way_out_is_nobodys_business() -> None:
    """The client has gone: the handler's clean-up may fail, but there is nobody to answer 500 to."""

    async def main(connection: Connection) -> None:
        async def handler() -> None:
            try:
                await forever()
            finally:
                raise ValueError("while cancelled")

        connection.close()
        await run_until_gone(handler, connection.receive)

    assert alone(main) == []


def test_a_handler_that_answers_while_it_is_cancelled_is_awaited() -> None:
    async def main(connection: Connection) -> None:
        ended = []

        async def handler() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                await asyncio.sleep(0.001)
                ended.append(True)

        connection.close()
        await run_until_gone(handler, connection.receive)
        assert ended

    assert alone(main) == []


def test_the_servers_own_cancellation_reaches_the_handler_and_is_not_swallowed() -> None:
    async def main(connection: Connection) -> None:
        cancelled = []

        async def handler() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        task = asyncio.create_task(run_until_gone(handler, connection.receive))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled

    assert alone(main) == []


def test_a_cancellation_while_the_handler_is_on_its_way_out_is_not_swallowed() -> None:
    async def main(connection: Connection) -> None:
        leaving, leave = asyncio.Event(), asyncio.Event()

        async def handler() -> None:
            try:
                await forever()
            finally:
                leaving.set()
                await leave.wait()

        task = asyncio.create_task(run_until_gone(handler, connection.receive))
        await asyncio.sleep(0)
        connection.close()
        await leaving.wait()
        task.cancel()
        await asyncio.sleep(0)
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.001)

    assert alone(main) == []
