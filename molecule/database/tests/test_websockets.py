"""Five hundred open browser tabs: pages are served all the while, and the database hardly notices."""

import asyncio
import json
import time
from collections import Counter

import aiohttp
from load import Load, ask, insecure

TABS = 500
PAGES = ["/_ref/sleep?s=0.01", "/_ref/gevent/sleep?s=0.01", "/", "/all/new"]


async def tab(session: aiohttp.ClientSession, url: str, opened: asyncio.Event, heard: list) -> None:
    """A tab: opens its websocket, answers the server's pings, and notes the event "pong-all"; raises when the socket closes early."""
    async with session.ws_connect(url.replace("https", "wss") + "/socket.io/?EIO=4&transport=websocket") as socket:
        assert (await socket.receive_str()).startswith("0{")
        await socket.send_str("40/snt,")
        while True:
            text = await socket.receive_str(timeout=60)
            if text == "2":
                await socket.send_str("3")
            elif text.startswith("40/snt,"):
                opened.set()
            elif "pong-all" in text:
                heard.append(json.loads(text[text.index("[") :])[1])
                return


async def scene(url: str) -> tuple[float, Load, list]:
    load, heard = Load(Counter(), []), []
    connector = aiohttp.TCPConnector(limit=0, ssl=insecure())
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        start = time.monotonic()
        tabs, waiting = [], []
        for number in range(TABS):
            opened = asyncio.Event()
            tabs.append(asyncio.create_task(tab(session, url, opened, heard)))
            waiting.append(opened.wait())
            if number % 50 == 49:
                await asyncio.wait_for(asyncio.gather(*waiting), 60)
                waiting = []
        took = time.monotonic() - start
        # Longer than the server's ping interval of 25 s.
        end = time.monotonic() + 30
        while time.monotonic() < end:
            await asyncio.gather(*(ask(session, url + path, load) for path in PAGES))
            await asyncio.sleep(0.2)
        assert not [task for task in tabs if task.done()], "a websocket has closed"
        async with session.ws_connect(url.replace("https", "wss") + "/socket.io/?EIO=4&transport=websocket") as socket:
            await socket.receive_str()
            await socket.send_str("40/snt,")
            while not (await socket.receive_str()).startswith("40/snt,"):
                pass
            await socket.send_str('42/snt,["ping-all","still here"]')
            await asyncio.wait_for(asyncio.gather(*tabs), 60)
    return took, load, heard


def test_open_tabs_cost_no_database_connections(url, watch_connections):
    with watch_connections() as counts:
        took, load, heard = asyncio.run(scene(url))
    print(f"{TABS} websockets opened in {took:.1f} s, all open after 30 s and reached by one event; pages meanwhile: {load}; server connections: at most {max(counts)} of 25")
    assert heard == ["still here"] * TABS
    assert load.failed == 0 and len(load.seconds) > 100
    assert max(counts) <= 25
