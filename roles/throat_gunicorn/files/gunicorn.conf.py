# Made by Ansible, edits are lost.
# X-Throat=yes (by this line the playbook knows its own files)
"""gunicorn's settings that are code: each answer, and systemctl status, name the release that really serves.

gunicorn resolves "current" when it starts and stays there, reloads included; so does this name.
"""

import os

from gunicorn import systemd

RELEASE = os.path.basename(os.getcwd())


def when_ready(server):
    systemd.sd_notify(f"STATUS=release {RELEASE}", server.log)


def post_worker_init(worker):
    serve = worker.wsgi

    def name_release(environ, start_response):
        def start(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Throat-Release", RELEASE)], exc_info)

        return serve(environ, start)

    worker.wsgi = name_release
