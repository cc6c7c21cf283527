"""Requests of many clients at once, and what became of them."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
from collections import Counter

import aiohttp

# Both hold a database connection for a fifth of a second.
GEVENT, SYNC = "/_ref/gevent/sleep?s=0.2", "/_ref/sleep?s=0.2"


@dataclasses.dataclass
class Load:
    """What clients saw: statuses (or names of errors) with their number, and the seconds that each request took."""

    statuses: Counter
    seconds: list[float]

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200)

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        return (
            f"{len(ordered)} requests, {self.failed} failed {dict(self.statuses) if self.failed else ''}, "
            f"p50 {ordered[len(ordered) // 2]:.2f} s, p99 {ordered[len(ordered) * 99 // 100]:.2f} s, longest {ordered[-1]:.2f} s"
        )


def insecure() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def ask(session: aiohttp.ClientSession, address: str, load: Load) -> None:
    start = time.monotonic()
    try:
        async with session.get(address) as answer:
            await answer.read()
            status = answer.status
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        status = type(error).__name__
    load.statuses[status] += 1
    load.seconds.append(time.monotonic() - start)


async def ask_all(url: str, shares: dict[str, tuple[int, int]]) -> Load:
    """Ask each path by so many clients at once, each so many times in a row."""
    load = Load(Counter(), [])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=insecure()), timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def client(path: str, times: int) -> None:
            for _ in range(times):
                await ask(session, url + path, load)

        await asyncio.gather(*(client(path, times) for path, (clients, times) in shares.items() for _ in range(clients)))
    return load
