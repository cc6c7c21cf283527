"""Every rule of the real Throat, with each of its methods, is asked of the running nginx: which worker class got it?"""

import re

import pytest
from werkzeug.routing import Map, Rule

from conftest import ROOT

VALUES = {"int": ["7"], "path": ["a/b.css"], "": ["abc", "7", "new", "delete"]}
SETS = {
    # worker classes: (where a rule goes that needs gevent, where any other goes)
    ("socketio",): ("socketio", "socketio"),
    ("gevent", "socketio"): ("gevent", "gevent"),
    ("sync", "socketio"): ("socketio", "sync"),
    ("sync", "gevent", "socketio"): ("gevent", "sync"),
}


def lines():
    """(rule, methods, needs gevent) by the columns of the file, read here by hand: 80, 35, 12 and 10 wide."""
    for line in (ROOT / "tests/data/throat-routes.txt").read_text().splitlines()[2:]:
        yield line[:80].strip(), re.findall("[A-Z]+", line[115:127]), "gevent" in line[120:]


def requests_to_make():
    """Every rule filled with plausible values: {(method, path): needs gevent}, by Werkzeug's own choice of the rule."""
    rules = [Rule(rule, methods=methods, endpoint=gevent) for rule, methods, gevent in lines()]
    adapter = Map(rules, strict_slashes=False).bind("localhost")
    wanted = {}
    for rule, methods, _gevent in lines():
        for number in range(max(map(len, VALUES.values()))):
            path = re.sub(r"<(?:(\w+):)?\w+>", lambda found: VALUES[found[1] or ""][number % len(VALUES[found[1] or ""])], rule)
            for method in methods:
                wanted[method, path] = adapter.match(path, method)[0]
    return wanted


@pytest.mark.parametrize("classes", SETS, ids="+".join)
def test_every_request_reaches_the_class_that_can_serve_it(run_site, url, browser, classes):
    run_site({"throat_gunicorn_workers": [{"name": name, "class": name} for name in classes]})
    needs_gevent, default = SETS[classes]
    wanted, wrong = requests_to_make(), []
    for (method, path), gevent in wanted.items():
        answer = browser.request(method, url + path)
        got = answer.headers.get("X-Worker", "nginx")
        expected = "nginx" if path.startswith("/static/") else needs_gevent if gevent else default
        if got != expected:
            wrong.append(f"{method} {path}: {got}, not {expected}")
    assert browser.get(f"{url}/socket.io/?EIO=4&transport=polling").headers["X-Worker"] == "socketio"
    print(f"{' + '.join(classes)}: {len(wanted) - len(wrong)} of {len(wanted)} requests right, from {len(list(lines()))} rules")
    assert wrong == []


def test_operator_adds_and_overrides_routes(run_site, url, browser):
    overrides = [
        {"rule": "/reports/<int:year>/slow", "methods": ["GET"], "gevent": True},
        {"rule": "/login", "methods": ["GET", "POST"], "gevent": False},
    ]
    workers = [{"name": name, "class": name} for name in ("sync", "gevent", "socketio")]
    run_site({"throat_gunicorn_workers": workers, "nginx_route_overrides": overrides})
    asked = {path: browser.get(url + path).headers["X-Worker"] for path in ("/reports/2026/slow", "/reports/x/slow", "/login", "/register")}
    assert asked == {"/reports/2026/slow": "gevent", "/reports/x/slow": "sync", "/login": "sync", "/register": "gevent"}
    run_site({"throat_gunicorn_workers": workers})


def test_snippet_that_nginx_refuses_fails_the_run_and_changes_nothing(run_site, url, browser, host):
    before = host.check_output("sha256sum /etc/nginx/sites-enabled/zz-throat.conf; systemctl show -p ExecMainStartTimestamp nginx")
    run = run_site({"nginx_server_snippet": "no_such_directive on;"}, check=False)
    assert run.returncode != 0 and 'unknown directive "no_such_directive"' in run.said
    assert host.check_output("sha256sum /etc/nginx/sites-enabled/zz-throat.conf; systemctl show -p ExecMainStartTimestamp nginx") == before
    assert browser.get(f"{url}/").status_code == 200
    host.check_output("nginx -t")
