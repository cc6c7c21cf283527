"""What a worker of each class believes it was asked: told in the answer, and in a line of SEEN for each request.

Served by gunicorn and gevent in the versions of Throat's lock, which are Debian 12's.
"""

import json
import os

CLASS = os.environ["WORKER_CLASS"]
SEEN = "/run/throat/seen"


def app(environ, start_response):
    # gevent hands out the bare connection when another protocol is asked for, and Throat does not read from it.
    body = b"" if "HTTP_UPGRADE" in environ else environ["wsgi.input"].read()
    seen = {
        "class": CLASS,
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "scheme": environ["wsgi.url_scheme"],
        "script": environ["SCRIPT_NAME"],
        "length": environ.get("CONTENT_LENGTH"),
        "body": body.decode("latin-1"),
        "headers": {name: value for name, value in environ.items() if name.startswith("HTTP_")},
    }
    # Long enough to be compressed.
    text = json.dumps(seen) + " " * 1024
    if "echo" in text:
        with open(SEEN, "a") as file:
            file.write(text + "\n")
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text))), ("X-Worker", CLASS), ("Set-Cookie", "session=a; Secure; HttpOnly; Path=/")])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else text.encode()]
