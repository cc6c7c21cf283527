"""People on a site while something happens to it: pages, posts, files and open tabs, each with what came of it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import http.client
import itertools
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Coroutine, Mapping, Sequence

import socketio

TABS = 4
# A connection for each request, by one TLS context: anew for each it would cost more than the site needs to answer.
ASK = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))


@dataclasses.dataclass(frozen=True)
class Visit:
    """One request; failure is empty when it was answered with 200."""

    kind: str
    began: float
    seconds: float
    failure: str
    release: str
    host: str


class Tab:
    """A page that is open in a browser: a websocket to the site at url, which reconnects by itself.

    heard: what the server has said, event to values in their order.
    All tabs live in one thread: socketio.Client reads in one and writes in another, and Python's ssl before 3.13 loses such a connection
    now and then (python-socketio's issue 1568).
    """

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.heard = collections.defaultdict(list)
        self.client = socketio.AsyncClient(ssl_verify=False, reconnection_delay=0.2, reconnection_delay_max=1)
        self.client.on("*", lambda event, value: self.heard[event].append(value), namespace="/snt")
        # As patient as a browser; by itself the client waits a second.
        self._wait(self.client.connect(url, headers or {}, transports=["websocket"], namespaces=["/snt"], wait_timeout=20))

    def _wait(self, doing: Coroutine) -> None:
        asyncio.run_coroutine_threadsafe(doing, self.loop).result(60)

    @property
    def connected(self) -> bool:
        return self.client.connected

    def say(self, event: str, value: dict) -> None:
        """Tell the server, and wait until it has done what it does upon that."""
        self._wait(self.client.call(event, value, namespace="/snt"))

    def tell(self, event: str, value: dict) -> None:
        """Tell the server, whether it does something upon that or not."""
        self._wait(self.client.emit(event, value, namespace="/snt"))

    def hears(self, event: str, within: float = 10) -> list:
        """The values of an event, a list that grows with each that comes; waits for the first of them, for so many seconds."""
        deadline = time.monotonic() + within
        while not self.heard[event] and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.heard[event]

    def close(self) -> None:
        self._wait(self.client.disconnect())


class Visitors:
    """Ask all the while, each kind in a thread of its own and the web servers in turn, until stop() is called.

    pause: seconds between two requests of a kind; visits: what has been asked; tabs: the open websockets, which reconnect by themselves as browsers do;
    also: further kinds, each with its method, path and pause;
    written and lost: the values of the posts that were answered, and of those that were not and may have been written all the same.
    """

    def __init__(self, urls: Sequence[str], pause: float, also: Mapping[str, tuple[str, str, float]] = {}) -> None:
        self.urls, self.pause, self.visits, self.written, self.lost = urls, pause, [], set(), set()
        self.name = uuid.uuid4().hex
        self.done = threading.Event()
        page = ASK.open(f"{urls[0]}/", timeout=30).read().decode()
        (bundle,) = set(re.findall(r"/static/gen/main\.\w+\.js", page))
        kinds = {
            "sync page": ("GET", "/_ref/sleep?s=0"),
            "gevent page": ("GET", "/_ref/gevent/sleep?s=0"),
            "socketio handshake": ("GET", "/socket.io/?EIO=4&transport=polling"),
            "post": ("POST", "/_ref/write"),
            "bundle of a page that is open": ("GET", bundle),
            **also,
        }
        self.threads = [threading.Thread(target=self._ask, args=(kind, *asked), daemon=True) for kind, asked in kinds.items()]
        for thread in self.threads:
            thread.start()
        self.tabs = [Tab(url) for url in itertools.islice(itertools.cycle(urls), TABS)]

    def _ask(self, kind: str, method: str, path: str, pause: float | None = None) -> None:
        for number in itertools.count():
            if self.done.is_set():
                return
            value = f"{self.name}-{number}"
            data = f"value={value}".encode() if method == "POST" else None
            began, failure, release, host = time.monotonic(), "", "", ""
            try:
                with ASK.open(self.urls[number % len(self.urls)] + path, data, timeout=70) as answer:
                    answer.read()
                    release, host = answer.headers.get("X-Throat-Release", ""), answer.headers.get("X-Ref-Host", "")
            except urllib.error.HTTPError as error:
                failure = str(error.code)
            except (OSError, http.client.HTTPException) as error:
                failure = type(error).__name__
            if method == "POST":
                (self.lost if failure else self.written).add(value)
            self.visits.append(Visit(kind, began, time.monotonic() - began, failure, release, host))
            time.sleep(self.pause if pause is None else pause)

    def since(self, began: float) -> list[Visit]:
        return [visit for visit in list(self.visits) if visit.began >= began]

    def longest(self, kind: str, visits: Sequence[Visit]) -> float:
        return max((visit.seconds for visit in visits if visit.kind == kind), default=0.0)

    def failed(self) -> list[str]:
        return [f"{visit.kind}: {visit.failure}" for visit in list(self.visits) if visit.failure]

    def tabs_are_open(self, within: float = 15) -> bool:
        """Whether every tab is connected, or is again before long."""
        deadline = time.monotonic() + within
        while not all(tab.connected for tab in self.tabs):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def stop(self) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()
        for tab in self.tabs:
            tab.close()

    def table(self, title: str, quiet: Sequence[Visit], busy: Sequence[Visit]) -> str:
        """Requests, failures and the longest answer of each kind, before and while something happened."""
        lines = [title, f"{'':32}requests  failed  longest s  quiet s"]
        for kind in dict.fromkeys(visit.kind for visit in self.visits):
            theirs = [visit for visit in busy if visit.kind == kind]
            lines.append(f"{kind:32}{len(theirs):8}{sum(bool(v.failure) for v in theirs):8}{self.longest(kind, busy):11.2f}{self.longest(kind, quiet):9.2f}")
        return "\n".join(lines)
