"""Who tries passwords, who sends files and who dawdles: what each gets, and that nobody else notices."""

import concurrent.futures
import contextlib
import json
import socket
import ssl
import time

import pytest

# Asks from the trusted proxy of the inventory, on the host: [[method, path, client], ...] to [[status, Retry-After, body's beginning], ...] in their order.
ASK = """
import concurrent.futures, http.client, json, ssl, sys
def ask(asked):
    method, path, client = asked
    site = http.client.HTTPSConnection("127.0.0.1", PORT, context=ssl._create_unverified_context(), source_address=("127.0.0.2", 0), timeout=30)
    site.request(method, path, headers={"Host": "localhost:PORT", "X-Forwarded-For": client})
    answer = site.getresponse()
    return answer.status, answer.getheader("Retry-After"), answer.read(300).decode()
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    print(json.dumps(list(pool.map(ask, json.load(sys.stdin)))))
"""


@pytest.fixture
def ask(on_host, url):
    port = url.rpartition(":")[2]
    return lambda requests: json.loads(on_host(f"python3 -c '{ASK.replace('PORT', port)}'", json.dumps(requests)))


@pytest.fixture
def seed():
    """Makes addresses that no test has used, also when it runs again on a host that stands: they are counted for a while."""
    return int(time.time()) % 60000


@pytest.fixture
def connect(url):
    """A connection to the site, by TLS, on which nothing has been said."""

    def connected():
        plain = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10)
        return ssl._create_unverified_context().wrap_socket(plain, server_hostname="localhost")

    return connected


def statuses(answers):
    return [status for status, _retry, _body in answers]


def test_an_office_logs_in_and_a_bot_is_braked(ask, seed):
    office, bot, somebody = (f"10.{seed // 250}.{seed % 250}.{last}" for last in (1, 2, 3))
    # A hundred people behind one address at the same moment; some are wrong at first.
    assert set(statuses(ask([["POST", "/login", office]] * 110))) == {200}
    began = time.monotonic()
    # Counted together, by whichever route.
    answers = ask([["POST", path, bot] for path in ("/login", "/register", "/recover", "/api/v3/login")] * 100)
    minutes = (time.monotonic() - began) / 60
    got = statuses(answers).count(200)
    assert set(statuses(answers)) == {200, 429} and 121 <= got <= 122 + 30 * minutes
    refused = next(answer for answer in answers if answer[0] == 429)
    assert refused[1] == "60" and "<h1>One moment</h1>" in refused[2]
    # Pages, health checks and websockets of the same address, and everybody else's log-in, go on.
    pages = [["GET", path, bot] for path in ("/login", "/", "/throat-health", "/socket.io/?EIO=4&transport=websocket")] * 50
    assert set(statuses(ask(pages))) == {200}
    assert set(statuses(ask([["POST", "/login", office], ["POST", "/login", somebody]]))) == {200}
    assert statuses(ask([["POST", path, bot] for path in ("/do/upload/x", "/submit/link/x", "/do/search")])) == [200] * 3
    many = statuses(ask([["POST", "/login", f"{20 + number // 250}.{seed // 250}.{seed % 250}.{number % 250}"] for number in range(1000)]))
    print(f"one address: {got} of 400 attempts in {minutes * 60:.0f} s, then 30 a minute; 1,000 addresses: {many.count(200)} of 1,000, one each")
    assert set(many) == {200}


def test_addresses_of_one_ipv6_network_are_one_client(ask, seed):
    one = statuses(ask([["POST", "/login", f"2001:db8:{seed:x}:7:{number:x}::1"] for number in range(1, 301)]))
    other = statuses(ask([["POST", "/login", f"2001:db8:{seed:x}:{number:x}::1"] for number in range(8, 108)]))
    assert 121 <= one.count(200) <= 160 and set(one) == {200, 429} and set(other) == {200}


def test_uploads_are_limited_by_themselves(ask, connect, seed):
    sender = f"10.{seed // 250}.{seed % 250}.4"
    sent = statuses(ask([["POST", f"/do/upload/{number}", sender] for number in range(250)]))
    # (Twenty at a time, of which one may come late.)
    assert set(sent) == {200, 429} and sent.count(200) >= 100
    assert statuses(ask([["POST", "/login", sender], ["GET", "/submit/link/x", sender]])) == [200, 200]
    # So many at the same time: these all wait for the rest of their files.
    senders = [connect() for _ in range(60)]
    for connection in senders:
        connection.sendall(b"POST /do/upload/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\na")
    refused = 0
    for connection in senders:
        connection.settimeout(0.05)
        with contextlib.suppress(OSError), connection:
            refused += b" 429 " in connection.recv(100)
    assert refused == 10


def test_client_that_dawdles_is_left(connect):
    def dawdle(head: bytes) -> float:
        """Seconds until nginx leaves a client that sends a head, and then a letter each half second."""
        began = time.monotonic()
        with connect() as connection:
            connection.settimeout(0.5)
            connection.sendall(head)
            while time.monotonic() - began < 15:
                try:
                    if not connection.recv(1000):
                        break
                except TimeoutError:
                    if b"\r\n\r\n" not in head:
                        connection.sendall(b"a")
                except OSError:
                    break
        return time.monotonic() - began

    heads = [b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\na"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        seconds = list(pool.map(dawdle, heads))
    print(f"left after {seconds[0]:.1f} s without the end of a head, {seconds[1]:.1f} s without more of a body (nginx_client_timeout 3)")
    assert all(2.5 < second < 6 for second in seconds)


def test_every_answer_has_the_headers_and_none_twice(browser, url):
    answers = {
        "page": browser.get(f"{url}/"),
        "no such file": browser.get(f"{url}/static/none.js"),
        "no such upload": browser.get(f"{url}/media/uploads/none"),
        "no such thumbnail": browser.get(f"{url}/media/thumbs/none"),
        "refused": browser.get(f"{url}/é".encode()),
        "too large": browser.post(f"{url}/login", headers={"Content-Length": "99999999"}, data=b"a"),
    }
    for name, answer in answers.items():
        for header, value in {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "strict-origin-when-cross-origin"}.items():
            assert answer.headers.get(header) == value, (name, header, dict(answer.headers))
        assert answer.headers["Server"] == "nginx", (name, answer.headers["Server"])
    assert "Content-Encoding" not in answers["page"].headers
    asked = {site: browser.get(f"{url}/login", headers={"Sec-Fetch-Site": site}).headers.get("Content-Encoding") for site in ("none", "same-origin", "same-site", "cross-site")}
    assert asked == {"none": "gzip", "same-origin": "gzip", "same-site": None, "cross-site": None}
    assert browser.get(f"{url}/api/v3/user").headers["Content-Encoding"] == "gzip"
    assert answers["page"].headers["Set-Cookie"].endswith("; SameSite=Lax")
