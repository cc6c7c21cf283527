"""A bounded load from loopback, and a watch on the server's connections while it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading

import pytest
from load import GEVENT, SYNC, Load, ask_all

HOST = "throat-stack-database"


@pytest.fixture(scope="session")
def send_load(url):
    """150 clients, sync and gevent at once; calls `meanwhile` half a second after they have begun."""

    def send(meanwhile=None, clients=75) -> Load:
        timer = threading.Timer(0.5, meanwhile) if meanwhile else None
        if timer:
            timer.start()
        load = asyncio.run(ask_all(url, {GEVENT: (clients, 8), SYNC: (clients, 2)}))
        if timer:
            timer.join()
        return load

    return send


@pytest.fixture(scope="session")
def watch_connections():
    """A context in which the application's server connections are counted ten times a second; yields the list of counts."""

    @contextlib.contextmanager
    def watch():
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'throat' \\watch 0.1\n"
        # A restart of the server ends a client; the next takes its place.
        looped = "while sleep 0.1; do su postgres -c \"psql -Atq\" 2>/dev/null <<< \"$0\"; done"
        command = ["docker", "exec", "-i", HOST, "timeout", "120", "bash", "-c", looped, query]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            counts: list[int] = []
            reader = threading.Thread(target=lambda: counts.extend(int(line) for line in process.stdout if line.strip().isdigit()))
            reader.start()
            try:
                yield counts
            finally:
                subprocess.run(["docker", "exec", HOST, "pkill", "-f", "pg_stat_activity"], check=False)
                process.terminate()
                reader.join()
        assert len(counts) > 20, "the watch saw nothing"

    return watch
