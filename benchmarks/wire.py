"""A client as a map is one: so many HTTP/1.1 connections, and a tile no longer wanted closes its connection.

asyncio streams and forty lines of HTTP: with a full client library a request costs a millisecond of the very cores
that are measured, more than a kept tile does on the server.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; times in seconds (monotonic)."""

    status: int
    headers: dict[str, str]
    body: bytes
    begun: float
    done: float


class Connection:
    """One kept-alive connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.used = False

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to a server on this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    async def get(self, path: str, agent: str) -> Answer:
        """Ask, and read the whole answer."""
        begun = time.monotonic()
        self._writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: {agent}\r\nAccept: image/png\r\n\r\n".encode()
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().casefold()] = value.strip()
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        self.used = True
        return Answer(int(first.split()[1]), headers, body, begun, time.monotonic())

    def close(self) -> None:
        """Close at once, whatever is under way: what a browser does with a tile that it does not want any more."""
        self._writer.transport.abort()


class Client:
    """Somebody at a map. Cancelling `get` closes its connection, or gives up its place in the queue."""

    def __init__(self, port: int, connections: int = 6, agent: str = "benchmark") -> None:
        self.port, self.agent = port, agent
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []

    async def get(self, path: str) -> Answer:
        """Ask once a connection is free. A kept connection that the server has closed meanwhile is replaced."""
        async with self._slots:
            while True:
                connection = self._idle.pop() if self._idle else await Connection.open(self.port)
                kept = connection.used
                try:
                    answer = await connection.get(path, self.agent)
                except (ConnectionError, asyncio.IncompleteReadError):
                    connection.close()
                    if not kept:
                        raise
                    continue
                except BaseException:
                    connection.close()
                    raise
                self._idle.append(connection)
                return answer

    async def json(self, path: str) -> Any:
        """An answer's JSON."""
        answer = await self.get(path)
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {answer.body[:300]!r}")
        return json.loads(answer.body)

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()
