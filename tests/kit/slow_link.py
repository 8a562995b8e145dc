"""A slow link: a proxy on 127.0.0.1 that delays every packet of a connection, each way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def slow_link(port: int, seconds: float) -> Iterator[int]:
    """The port of a proxy to `port` whose round trip takes `seconds` longer, with the bandwidth of the link behind."""
    ports: list[int] = []
    started = threading.Event()
    ended: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    return target.close()
                target.write(data)
                await target.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            while data := await source.read(1 << 16):
                queue.put_nowait((loop.time() + seconds / 2, data))
            queue.put_nowait((loop.time() + seconds / 2, b""))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ExceptionGroup):  # a side hung up
            async with asyncio.TaskGroup() as group:
                group.create_task(carry(reader, behind_writer))
                group.create_task(carry(behind_reader, writer))

    async def serve() -> None:
        end = asyncio.Event()
        ended.append((asyncio.get_running_loop(), end))
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    started.wait(timeout=10)
    try:
        yield ports[0]
    finally:
        loop, end = ended[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(timeout=10)
