"""Whom the application believes it talks to: 0 to 3 real proxies in front, honest and forged headers, IPv4 and IPv6."""

import contextlib
import json
import re

import pytest

CLIENT = {4: "203.0.113.10", 6: "2001:db8:c::10"}
SITE = {4: "198.51.100.100", 6: "2001:db8:f::100"}
PORT, HOPS = 8444, 3
FORGED = "192.0.2.66"
HEADERS = {
    "honest": [],
    "forged": [f"X-Forwarded-For: {FORGED}"],
    "forged chain": [f"X-Forwarded-For: {FORGED}, 192.0.2.67, 192.0.2.68, 192.0.2.69"],
    "duplicated": [f"X-Forwarded-For: {FORGED}", "X-Forwarded-For: 192.0.2.67"],
    "claims a proxy": ["X-Forwarded-For: 192.0.2.66, 198.51.100.1, 2001:db8:f::1"],
    "no address": ["X-Forwarded-For: unix:, localhost"],
}


def proxy(family: int, number: int) -> str:
    return {4: f"198.51.100.{number}", 6: f"2001:db8:f::{number}"}[family]


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@contextlib.contextmanager
def chain(on_host):
    """Proxies on addresses of their own: number 1 asks the site, number 2 asks number 1, and so on."""
    servers = []
    for family in (4, 6):
        for number in range(1, HOPS + 1):
            ahead = f"https://{bracketed(SITE[family])}:{PORT}" if number == 1 else f"http://{bracketed(proxy(family, number - 1))}:8081"
            servers.append(f"""server {{ listen {bracketed(proxy(family, number))}:8081; location / {{
                proxy_pass {ahead}; proxy_bind {proxy(family, number)}; proxy_ssl_server_name on; proxy_ssl_name localhost;
                proxy_set_header Host localhost:{PORT}; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}""")
    addresses = [*CLIENT.values(), *SITE.values(), *(proxy(family, number) for family in (4, 6) for number in range(1, HOPS + 1))]
    on_host("; ".join(f"ip address replace {address} dev lo" for address in addresses))
    listen = "timeout 20 sh -c 'until ss -Hltn sport = :8081 | grep -q .; do sleep 0.1; done'"
    on_host(f"cat > /etc/nginx/conf.d/hops.conf && nginx -t -q && systemctl reload nginx && {listen}", stdin="\n".join(servers))
    try:
        yield
    finally:
        on_host("rm /etc/nginx/conf.d/hops.conf && systemctl reload nginx")
        on_host("; ".join(f"ip address delete {address} dev lo" for address in addresses))


def behind(hops: int) -> dict[str, list[dict]]:
    """What the inventory says of a site that knows of so many of them."""
    return {"throat_proxies": [{"name": f"proxy {number}", "addresses": [f"{proxy(4, number)}/32", f"{proxy(6, number)}/128"]} for number in range(hops, 0, -1)]}


@pytest.fixture(scope="module")
def stand_behind(on_host, run_site):
    """Call it for a site that knows of so many proxies; at first, and afterwards, of none."""
    known = 0

    def stand(hops: int) -> None:
        nonlocal known
        if hops != known:
            run_site(behind(hops), "--tags", "throat_gunicorn,nginx")
        known = hops

    with chain(on_host):
        yield stand
    # Without them, since nginx may do less when the site is alone again.
    if known:
        run_site({}, "--tags", "throat_gunicorn,nginx")


def ask(on_host, family: int, hops: int, headers: list[str], path: str = "/_ref/whoami", times: int = 1) -> list[tuple[int, str]]:
    """Status and body of each answer to the client's requests through so many proxies."""
    address = f"http://{bracketed(proxy(family, hops))}:8081" if hops else f"https://localhost:{PORT}"
    command = ["curl", "-sk", "--interface", CLIENT[family], "-w", "<<%{http_code}>>", "-H", f"Host: localhost:{PORT}"]
    command += ["--connect-to", f"localhost:{PORT}:{bracketed(SITE[family])}:{PORT}"] if not hops else []
    for header in headers:
        command += ["-H", header]
    quoted = " ".join(f"'{word}'" for word in [*command, *[address + path] * times])
    return [(int(code), body) for body, code in re.findall(r"(.*?)<<(\d{3})>>", on_host(quoted), re.DOTALL)]


def knows_the_client(on_host, flush_limits, hops: int) -> None:
    """Assert that the application knows it through so many proxies, whatever it claims."""
    assert on_host("systemctl show -p Environment throat-sync").count(f"SITE_TRUSTED_PROXY_COUNT={hops + 1}") == 1
    seen = {}
    for family in (4, 6):
        for name, headers in HEADERS.items():
            ((code, body),) = ask(on_host, family, hops, headers)
            seen[family, name] = json.loads(body)["remote_addr"] if code == 200 else code
            print(f"{hops} proxies, IPv{family}, {name:15}: {seen[family, name]}")
    assert seen == {(family, name): CLIENT[family] for family, name in seen}
    # Nor is it believed when it comes past the proxies.
    for family in (4, 6):
        for name, headers in HEADERS.items():
            ((code, body),) = ask(on_host, family, 0, headers)
            assert (code, json.loads(body)["remote_addr"]) == (200, CLIENT[family]), (family, name)

    # Nor does it escape its rate limit: 60 a minute, whatever it claims to be.
    for family in (4, 6):
        flush_limits()
        codes = [code for number in range(7) for code, _ in ask(on_host, family, hops, [f"X-Forwarded-For: 192.0.2.{number}"], "/all/new", 10)]
        assert codes == [200] * 60 + [429] * 10


# Two are among the changes of test_changes.py.
@pytest.mark.parametrize("hops", [0, pytest.param(1, marks=pytest.mark.campaign), pytest.param(HOPS, marks=pytest.mark.campaign)])
def test_application_knows_the_client_whatever_it_claims(stand_behind, on_host, flush_limits, hops):
    stand_behind(hops)
    knows_the_client(on_host, flush_limits, hops)
