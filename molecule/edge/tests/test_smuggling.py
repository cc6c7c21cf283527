"""Requests that want to be two, or somebody else's, through nginx to a worker of each class: every request has one meaning, and nobody lies about an address.

What nginx has let through stands in its log, what workers have understood in worker.py's: both must say the same, request by request.
"""

from __future__ import annotations

import collections
import concurrent.futures
import json
import re
import socket
import ssl
import struct
import time
import urllib.parse

import pytest
import requests
import testinfra
import yaml

from conftest import ROOT

CORPUS = yaml.safe_load((ROOT / "molecule/edge/tests/requests.yml").read_text())
# The way to each worker class, by the rules of the inventory and of acme.yml.
WAYS = {"sync": "/sync/echo", "gevent": "/echo/", "socketio": "/socket.io/echo"}
FORGED = "203.0.113.66"
# What may reach a worker about the client; nginx says it, whatever a client sends.
SAID_BY_NGINX = {"HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_REQUEST_ID"}
ONLY_A_PROXY_SAYS = re.compile(
    r"HTTP_(X_FORWARDED|FORWARDED|X_REAL_IP|X_REQUEST_ID|PROXY$|SCRIPT|PATH_INFO|X_SCRIPT|X_ORIGINAL|X_REWRITE|X_URL_SCHEME|FRONT_END|X_HTTP_METHOD|SEC_WEBSOCKET_KEY1)"
    "|.*CLIENT_IP|.*CONNECTING_IP"
)


def fill(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    return text


def values_for(way: str, number: int, host: str) -> dict[str, str]:
    smuggled = f"GET {WAYS['gevent']}smuggled-{number} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {FORGED}\r\n\r\n"
    path, name = f"{WAYS[way]}{number}", host.split(":")[0]
    return {"path": path, "host": host, "name": name, "chunked": "5\r\nhello\r\n0\r\n\r\n", "smuggled": smuggled, "length": str(len(smuggled))}


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def literal(text: bytes) -> bytes:
    """A string of HPACK as it is, without Huffman's code."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, b""
    while rest >= 128:
        length, rest = length + bytes([rest % 128 + 128]), rest // 128
    return b"\x7f" + length + bytes([rest]) + text


def corpus(host: str):
    """(worker class, name, application protocol, bytes) of every request."""
    number = 0
    for way in WAYS:
        for family in CORPUS["http1"]:
            for filling in family["fills"]:
                number += 1
                text = fill(family["request"].replace("<fill>", filling), values_for(way, number, host))
                yield way, f"{family['family']}: {filling!r}", "http/1.1", text.encode("latin-1")
        for family in CORPUS["h2"]:
            for filling in family["fills"]:
                number += 1
                values = values_for(way, number, host)
                given = [(name, fill(value, values)) for name, value in filling]
                usual = {":method": "GET", ":scheme": "https", ":path": values["path"], ":authority": host}
                fields = [(name, value) for name, value in usual.items() if name not in dict(given)]
                fields += [field for field in given if field[0].startswith(":")] + [field for field in given if not field[0].startswith(":")]
                block = b"".join(b"\0" + literal(name.encode("latin-1")) + literal(value.encode("latin-1")) for name, value in fields)
                body = fill(family.get("body", ""), values).encode("latin-1")
                sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4 if body else 5, 1, block)
                yield way, f"{family['family']}: {filling!r}", "h2", sent + (frame(0, 1, 1, body) if body else b"")


def send(address: tuple[str, int], name: str, protocol: str, sent: bytes, patience: tuple[float, float]) -> bytes:
    """Send it over a connection of its own, and return what comes back, until for so many seconds (at first, and then) nothing more does."""
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([protocol])
    received = b""
    with socket.create_connection(address, 10) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
        try:
            connection.sendall(sent)
            connection.settimeout(patience[0])
            while piece := connection.recv(65536):
                received += piece
                connection.settimeout(patience[1])
        except (OSError, ssl.SSLError):
            pass
    return received


def misread(record: dict, line: dict | None, hosts: tuple[str, str], proxies: int) -> list[str]:
    """How what a worker has understood differs from what nginx has, by its log."""
    if not line:
        return ["nginx knows of no such request"]
    headers = record["headers"]
    target = record["path"] + ("?" + record["query"] if record["query"] else "")
    # nginx has no path of http://host?query.
    asked = re.sub(r"^\?", "/?", line["uri"])
    differs = {
        "method": record["method"] != line["method"],
        "path": urllib.parse.unquote(target, "latin-1") != urllib.parse.unquote(asked, "latin-1") or record["script"],
        "client": headers.get("HTTP_X_FORWARDED_FOR") != ", ".join([line["peer"]] * (1 + proxies)),
        # On unix sockets gunicorn believes nginx; gevent's own server never does.
        "scheme": headers.get("HTTP_X_FORWARDED_PROTO") != "https" or record["scheme"] != ("http" if record["class"] == "socketio" else "https"),
        "host": headers.get("HTTP_HOST") not in hosts,
        "body": "HTTP_TRANSFER_ENCODING" in headers or "HTTP_UPGRADE" not in headers and len(record["body"]) != int(record["length"] or 0),
        "word of the client's": {header for header in headers if ONLY_A_PROXY_SAYS.match(header)} - SAID_BY_NGINX,
    }
    return [f"another {what}" for what, does in differs.items() if does]


@pytest.fixture(params=["throat-stack-edge", "throat-stack-acme"])
def door(request, run_site, scenario):
    """(host, its address and port, its own name with the port, how many proxies it trusts): nginx of Debian 12, and of 13."""
    host = testinfra.get_host(f"docker://{request.param}")
    if request.param.endswith("edge"):
        return host, ("127.0.0.1", 8447), "localhost:8447", 1
    if not host.file("/etc/nginx/sites-enabled/zz-throat.conf").exists:
        # Served with a certificate of its own before the authority is asked.
        run_site(playbook=str(ROOT / "molecule/edge/acme.yml"), check=False)
    return host, (host.interface("eth0").addresses[0], 443), "site.example.com", 0


def test_no_request_has_two_meanings_and_nobody_lies_about_an_address(door):
    host, address, own_name, proxies = door
    name = own_name.split(":")[0]
    log = "/var/log/nginx/throat.access.log"
    host.check_output(f"truncate -s 0 {log}; rm -f /run/throat/seen")
    everything, strangers = list(corpus(own_name)), []

    def ask(number: int) -> None:
        way, _what, protocol, sent = everything[number]
        send(address, name, protocol, sent, (1, 0.15))
        # Whoever comes next over the same connection of nginx to the worker.
        path = f"{WAYS[way]}-honest-{number}"
        got = send(address, name, "http/1.1", f"GET {path} HTTP/1.1\r\nHost: {own_name}\r\nConnection: close\r\n\r\n".encode(), (20, 20))
        if not got.startswith(b"HTTP/1.1 200") or json.loads(got.split(b"\r\n\r\n", 1)[1])["path"] != path:
            strangers.append((everything[number][1], got[:300]))

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        list(pool.map(ask, range(len(everything))))
    # nginx writes its log when a client is gone.
    time.sleep(1)
    lines = [json.loads(line) for line in host.check_output(f"iconv -f latin1 -t utf8 {log}").split("\n")]
    passed = {line["request_id"]: line for line in lines if line["upstream"]}
    seen = [json.loads(line) for line in host.check_output("cat /run/throat/seen").split("\n")]
    times = collections.Counter(record["headers"].get("HTTP_X_REQUEST_ID") for record in seen)
    wrong = [f"{reason}: {record}" for record in seen for reason in misread(record, passed.get(record["headers"].get("HTTP_X_REQUEST_ID")), (own_name, name), proxies)]
    wrong += [f"seen {number} times: {passed.get(request_id)}" for request_id, number in times.items() if number > 1]
    wrong += [f"not seen by a worker: {line}" for request_id, line in passed.items() if request_id not in times and line["upstream_status"] == "200"]
    reached = collections.Counter(
        (record["class"], passed[record["headers"]["HTTP_X_REQUEST_ID"]]["protocol"] == "HTTP/2.0")
        for record in seen if "-honest-" not in record["path"] and record["headers"].get("HTTP_X_REQUEST_ID") in passed
    )
    print(
        f"{host.check_output('nginx -v 2>&1')}: {len(everything)} requests in {time.monotonic() - began:.0f} s, {sum(reached.values())} reached a worker, "
        f"{len(wrong)} of them in another meaning; {len(strangers)} of {len(everything)} that followed got another answer than theirs"
    )
    assert wrong == [] and strangers == []
    # Neither is everything refused, nor nothing: the requests that follow reach the class that they are meant for, and so do many before them.
    assert {way: {record["class"] for record in seen if record["path"].startswith(f"{WAYS[way]}-honest-")} for way in WAYS} == {way: {way} for way in WAYS}
    assert len(set(reached)) == 6 and min(reached.values()) > 10, reached
