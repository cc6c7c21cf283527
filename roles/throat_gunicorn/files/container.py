# Made by Ansible, edits are lost.
# X-Throat=yes (by this line the playbook knows its own files)
"""Run one worker's container in the foreground for systemd, and go over to another image without a pause.

Usage: container.py <directory of the live release> <docker run's options>...    (stdin, environment and signals are systemd's)
systemd holds the listening socket. A container cannot inherit it, so gunicorn asks for it at a door, a unix socket in $RUNTIME_DIRECTORY that is
mounted into the container (gunicorn.conf.py is the other side). SIGHUP starts a second container, of the image that is live by then, on the same
socket; when it serves, the first is told to end; when it cannot boot, the first goes on as if nothing had been. $RUNTIME_DIRECTORY/outcome then
says "ok" or "failed", for "systemctl reload", which waits for it. SIGTERM ends all. When the container that serves ends by itself, so does this.
"""

import asyncio
import contextlib
import itertools
import os
import pathlib
import signal
import socket
import subprocess
import sys

from systemd.daemon import listen_fds, notify

CURRENT, OPTIONS = pathlib.Path(sys.argv[1]), sys.argv[2:]
DIRECTORY = pathlib.Path(os.environ["RUNTIME_DIRECTORY"])
UNIT = DIRECTORY.name


class Container:
    """One container, from "docker run" to its end."""

    def __init__(self, number: int) -> None:
        self.name = f"{UNIT}-{number}"
        self.release = CURRENT.resolve().name
        self.image = (CURRENT / ".image").read_text().strip()
        self.serves = asyncio.Event()
        self.client: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        # The client hands on signals, and what the container says, to the journal.
        self.client = await asyncio.create_subprocess_exec(
            "docker", "run", "--rm", "--name", self.name, "--label", f"throat.unit={UNIT}", "--env", f"THROAT_RELEASE={self.release}",
            "--env", f"THROAT_CONTAINER={self.name}", "--env", "THROAT_DOOR=/run/door/door", "--volume", f"{DIRECTORY}:/run/door:ro", *OPTIONS, self.image,
        )
        await self.client.wait()

    def end(self) -> None:
        if self.client:
            with contextlib.suppress(ProcessLookupError):
                self.client.terminate()


class Worker:
    """The service: the container that serves, and for a while the one that takes over."""

    def __init__(self) -> None:
        # Two while it moves to another address.
        self.listeners = listen_fds()
        self.numbers = itertools.count(1)
        self.containers: dict[str, Container] = {}
        self.serving: Container | None = None
        self.reloading = False
        self.stopped = asyncio.Event()
        self.status: str | None = None

    def open_door(self) -> None:
        (DIRECTORY / "door").unlink(missing_ok=True)
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.door.bind(str(DIRECTORY / "door"))
        self.door.listen()
        asyncio.get_running_loop().add_reader(self.door, self.answer_door)

    def answer_door(self) -> None:
        """Give gunicorn the socket, or learn that it serves."""
        visitor, _address = self.door.accept()
        with visitor:
            visitor.settimeout(5)
            with contextlib.suppress(OSError):
                name, _space, said = visitor.recv(1024).decode().partition(" ")
                if said == "socket":
                    socket.send_fds(visitor, [b"socket"], self.listeners)
                elif said == "serves" and name in self.containers:
                    self.containers[name].serves.set()

    async def start(self) -> bool:
        """Start a container, and return whether it serves; False when it has ended before."""
        container = Container(next(self.numbers))
        self.containers[container.name] = container
        run = asyncio.create_task(container.run())
        run.add_done_callback(lambda _: self.ended(container))
        serves = asyncio.create_task(container.serves.wait())
        await asyncio.wait([run, serves], return_when=asyncio.FIRST_COMPLETED)
        serves.cancel()
        if run.done():
            run.result()  # raises where there is no "docker"
        if container.serves.is_set():
            self.serving = container
            notify(f"READY=1\nSTATUS=release {container.release}")
        return container.serves.is_set()

    def ended(self, container: Container) -> None:
        del self.containers[container.name]
        if not self.containers or container is self.serving:
            if not self.stopped.is_set():
                # A failure for systemd, and in the journal.
                self.status = f"container {container.name} has ended by itself, with exit status {container.client and container.client.returncode}"
            self.stop()

    async def reload(self) -> None:
        before, self.reloading = self.serving, True
        try:
            outcome = "ok" if await self.start() else "failed"
            if outcome == "ok":
                before.end()
                while before.name in self.containers:
                    await asyncio.sleep(0.1)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            outcome = "failed"
        self.reloading = False
        (DIRECTORY / "outcome").write_text(outcome)

    def on_hangup(self) -> None:
        if not self.reloading:
            self.task = asyncio.create_task(self.reload())

    def stop(self) -> None:
        for container in self.containers.values():
            container.end()
        self.stopped.set()

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.on_hangup)
        self.open_door()
        stopped, first = asyncio.create_task(self.stopped.wait()), asyncio.create_task(self.start())
        await asyncio.wait([stopped, first], return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()  # raises where there is no image, or no engine
        await stopped
        while self.containers:
            await asyncio.sleep(0.1)
        first.cancel()
        sys.exit(self.status)


def remove_containers() -> None:
    """Those of a supervisor that was killed; they would go on serving."""
    listing = ["docker", "ps", "--all", "--quiet", "--filter", f"label=throat.unit={UNIT}"]
    left = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    if left:
        subprocess.run(["docker", "rm", "--force", *left], check=True, stdout=subprocess.DEVNULL)


remove_containers()
asyncio.run(Worker().main())
