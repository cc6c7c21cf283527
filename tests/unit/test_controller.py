"""What the controller does by itself: it asks the site for pages, and renders what files should hold."""

import http.server
import json
import re
import socket
import subprocess
import threading

import pytest
from ansible_collections.throat.stack.plugins.action import visit

# Of answers.yml.
ACCEPTED = "200:|503:[^:]*:.|429:[^:]"
# Path to status and headers.
PAGES = {
    "/page": (200, {"X-Throat-Release": "v1"}),
    "/moved": (302, {"Location": "/page"}),
    "/closed": (503, {"Retry-After": "300"}),
    "/limited-by-a-worker": (429, {"X-Throat-Release": "v1", "Retry-After": "60"}),
    "/limited-by-nginx": (429, {"Retry-After": "60"}),
    "/overloaded": (503, {}),
    "/gone": (502, {}),
    "/away": (302, {"Location": "http://127.0.0.1:nothing/"}),
}


@pytest.fixture(scope="module")
def address():
    """A site of PAGES, which asks for the name that Ansible's own module has."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers = PAGES[self.path] if self.headers["User-Agent"] == "ansible-httpget" else (403, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def stranger():
    """Something that answers, and not by HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.mark.parametrize(
    ("path", "counts", "line"),
    [
        ("/page", True, "answers 200"),
        ("/moved", True, "answers 200"),
        ("/closed", True, "answers 503"),
        ("/limited-by-a-worker", True, "answers 429"),
        ("/limited-by-nginx", False, "answers 429"),
        ("/overloaded", False, "answers 503"),
        ("/gone", False, "answers 502"),
    ],
)
def test_page_counts_as_answered_by_what_a_worker_or_a_closed_site_says(address, path, counts, line):
    said, reached, told = visit.ask(address + path, True)
    assert (bool(re.match(ACCEPTED, said)), reached, told) == (counts, True, f"{address}{path} {line}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "throat.example.com/", "http://.example.com/"])
def test_address_at_which_nobody_answers_is_not_reached(url):
    said, reached, told = visit.ask(url, True)
    assert (said, reached) == ("", False) and told.startswith(f"{url} cannot be read: ")


def test_who_is_no_web_server_or_leads_nowhere_is_not_reached(address, stranger):
    assert visit.ask(stranger, True)[:2] == ("", False) == visit.ask(f"{address}/away", True)[:2]


def test_template_is_rendered_as_the_builtin_lookup_does(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/file.j2").write_text("{{ ansible_managed | comment }}\n{% for n in [1, 2] %}\n  {{ n }}\\n {{ word }}\n{% endfor %}\n\n{{ mine }}\n\n")
    (tmp_path / "templates/number.j2").write_text("12")
    ours, builtin = (f"lookup('{name}', item, template_vars={{'mine': word}})" for name in ("throat.stack.rendered", "ansible.builtin.template"))
    play = {"hosts": "localhost", "gather_facts": False, "vars": {"word": "a {{ 'word' }}"}, "tasks": [{"assert": {"that": f"{ours} == {builtin}"}, "loop": ["file.j2", "number.j2"]}]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    for variables in ({}, {"ansible_managed": "by somebody"}):
        run = subprocess.run(["ansible-playbook", tmp_path / "play.yml", "-e", json.dumps(variables)], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
