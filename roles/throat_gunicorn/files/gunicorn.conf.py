# Made by Ansible, edits are lost.
# X-Throat=yes (by this line the playbook knows its own files)
"""gunicorn's settings that are code: how a worker service goes over to another release, and that each answer names the one that made it.

On the host, "systemctl reload" sends SIGUSR2: the running master starts a second one beside itself, on the same socket. Only when the second serves
is the first told to end; when it cannot boot, the first goes on as if nothing had been. In a container (THROAT_DOOR) container.py does
likewise with containers: gunicorn gets the socket from it and says when it serves.
"""

import os
import pathlib
import signal
import socket

from gunicorn import systemd

try:
    from PIL import Image
except ImportError:
    pass
else:
    # Pillow 10 has dropped this name of the filter, by which Throat makes thumbnails.
    Image.ANTIALIAS = Image.LANCZOS

DOOR = os.environ.get("THROAT_DOOR")
# gunicorn stays in the directory that "current" was when it started: /opt/<site>/releases/<release>.
RELEASE = os.environ["THROAT_RELEASE"] if DOOR else os.path.basename(os.getcwd())
CURRENT = pathlib.Path.cwd().parents[1] / "current"


def at_the_door(said):
    """Say something to container.py; returns the file descriptors that it hands out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.settimeout(10)
        door.connect(DOOR)
        door.send(f"{os.environ['THROAT_CONTAINER']} {said}".encode())
        return socket.recv_fds(door, 1024, 8)[1]


def on_starting(server):
    """Before gunicorn makes its own socket: take the one that systemd holds."""
    if DOOR:
        listeners = at_the_door("socket")
        for number, listener in enumerate(listeners):
            os.dup2(listener, systemd.SD_LISTEN_FDS_START + number)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(listeners)))


def pre_exec(server):
    """In the process that becomes the second master: run what is current now, by its own interpreter."""
    release = os.path.realpath(CURRENT)
    python, gunicorn = f"{release}/.venv/bin/python", f"{release}/.venv/bin/gunicorn"
    server.START_CTX.update({0: python, "args": [python, gunicorn, *server.START_CTX["args"][2:]], "cwd": release})
    # systemd's protocol has the sockets begin at 3; gunicorn has moved them.
    for number, listener in enumerate(server.LISTENERS):
        os.dup2(listener.fileno(), systemd.SD_LISTEN_FDS_START + number)
    # For "systemctl reload", which waits for the outcome; /tmp is the service's own.
    pathlib.Path("/tmp/second").write_text(str(os.getpid()))


def post_worker_init(worker):
    """In each worker, which has imported the application by now."""
    serve = worker.wsgi

    def name_release(environ, start_response):
        def start(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Throat-Release", RELEASE)], exc_info)

        return serve(environ, start)

    worker.wsgi = name_release
    if worker.age != worker.cfg.workers:
        return
    if DOOR:
        at_the_door("serves")
    else:
        systemd.sd_notify(f"STATUS=release {RELEASE}", worker.log)
        if "GUNICORN_PID" in os.environ:
            os.kill(int(os.environ["GUNICORN_PID"]), signal.SIGTERM)
