# Made by Ansible, edits are lost.
# X-Throat=yes (by this line the playbook knows its own files)
"""gunicorn's settings that are code: how a worker service goes over to another release, that each answer names the one that made it, and by which
keys a session is known.

On the host, "systemctl reload" sends SIGUSR2: the running master starts a second one beside itself, on the same socket. Only when the second serves
is the first told to end; when it cannot boot, the first goes on as if nothing had been. In a container (THROAT_DOOR) container.py does
likewise with containers: gunicorn gets the socket from it and says when it serves.
"""

import copy
import json
import os
import pathlib
import signal
import socket
import sys
import time

from gunicorn import systemd, util

try:
    from PIL import Image
except ImportError:
    pass
else:
    # Pillow 10 has dropped this name of the filter, by which Throat makes thumbnails.
    Image.ANTIALIAS = Image.LANCZOS

# A worker would become the user that it is already, which the sandbox lets nobody do.
util.set_owner_process = lambda *_arguments, **_options: None

DOOR = os.environ.get("THROAT_DOOR")
# gunicorn stays in the directory that "current" was when it started: /opt/<site>/releases/<release>.
RELEASE = os.environ["THROAT_RELEASE"] if DOOR else os.path.basename(os.getcwd())
CURRENT = pathlib.Path.cwd().parents[1] / "current"
# Keys by which sessions are known beside the application's own, for so many seconds from when the file came: Flask itself admits no older session.
SESSION_KEYS = pathlib.Path(__file__).resolve().with_name("session_keys.json")
SESSION_SECONDS = 31 * 24 * 3600


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


def other_keys(own):
    """The keys of the file that are not the worker's own, none where they have had their time."""
    try:
        fresh = time.time() - SESSION_KEYS.stat().st_mtime < SESSION_SECONDS
        return [key for key in json.loads(SESSION_KEYS.read_text()) if key != own] if fresh else []
    except (OSError, ValueError):
        return []


def know_by_other_keys(own):
    """Let what another key has signed count as what the worker's own has; signed anew it is with that. (Flask 3.1 can, of sessions; Throat's cannot.)

    Only when the own key has not signed it, other_keys is asked: whoever sends what nobody has signed costs a small file that is read.
    """
    # Sessions, the tokens of forms, and links in letters.
    signer = sys.modules["itsdangerous.signer"].Signer
    verify_signature = signer.verify_signature

    def verify_signed(self, value, sig):
        if verify_signature(self, value, sig):
            return True
        other = copy.copy(self)
        other.secret_keys = [key.encode() for key in other_keys(own)] if self.secret_keys == [own.encode()] else []
        return verify_signature(other, value, sig)

    signer.verify_signature = verify_signed

    # The cookie of "remember me", which the browser gets anew.
    if login := sys.modules.get("flask_login.login_manager"):
        decode_cookie = login.decode_cookie

        def decode(cookie, key=None):
            found = decode_cookie(cookie, key)
            if found is None and key is None:
                found = next(filter(None, (decode_cookie(cookie, other.encode("latin1", "backslashreplace")) for other in other_keys(own))), None)
                if found is not None:
                    login.session["_remember"] = "set"
            return found

        login.decode_cookie = decode

    # The tokens of the API.
    if tokens := sys.modules.get("jwt.algorithms"):
        verify_token = tokens.HMACAlgorithm.verify

        def verify(self, msg, key, sig):
            if verify_token(self, msg, key, sig):
                return True
            return key == own.encode() and any(verify_token(self, msg, other.encode(), sig) for other in other_keys(own))

        tokens.HMACAlgorithm.verify = verify


def post_worker_init(worker):
    """In each worker, which has imported the application by now."""
    serve = worker.wsgi
    know_by_other_keys(str(serve.config["SECRET_KEY"]))

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
