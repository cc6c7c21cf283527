"""The site on eight hosts: each web server, each worker class, and what the hosts say to each other."""

import pathlib
import subprocess
import time

import requests
from conftest import form
from visitors import Tab

WEB, APPS = ("throat-stack-web1", "throat-stack-web2"), ("throat-stack-app1", "throat-stack-app2", "throat-stack-app3")
POOLER, DATABASE, REDIS = "throat-stack-pooler", "throat-stack-postgres", "throat-stack-redis"


def on(host: str, command: str, check: bool = True) -> str:
    """Output of a shell command, run as root on a host."""
    done = subprocess.run(["docker", "exec", host, "bash", "-c", f"cd / && {command}"], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def tab_of(url: str, address: str) -> tuple[str, Tab]:
    """A browser tab of a client with this address, and before it the application host that it is connected to."""
    tab = Tab(url, headers={"X-Forwarded-For": address})
    return tab.hears("uinfo")[-1]["host"], tab


def test_each_web_server_reaches_each_worker_class_on_each_host(urls, flush_limits):
    for url in urls:
        for path, kind in (("/_ref/sleep?s=0", "sync"), ("/_ref/gevent/sleep?s=0", "gevent")):
            answers = [requests.get(url + path, verify=False, timeout=30) for _ in range(12)]
            assert {(answer.status_code, answer.headers["X-Ref-Worker"]) for answer in answers} == {(200, kind)}
            assert {answer.headers["X-Ref-Host"] for answer in answers} == set(APPS)


def test_somebody_who_has_logged_in_is_known_whichever_hosts_are_asked(urls, browser, secrets, flush_limits):
    fields = form(browser.get(f"{urls[0]}/login").text)
    assert browser.post(f"{urls[0]}/login", data={**fields, "username": "admin", "password": secrets["admin_password"]}).ok
    cookies = {cookie.name: cookie.value for cookie in browser.cookies}
    for url in urls * 3:
        assert "/u/admin" in requests.get(url, cookies=cookies, verify=False, timeout=30).text


def test_client_stays_with_one_host_whichever_web_server_it_comes_by(urls, flush_limits):
    found = {}
    for number in range(12):
        opened = [tab_of(url, f"198.51.100.{number}") for url in urls]
        found[number] = {host for host, _tab in opened}
        for _host, tab in opened:
            tab.close()
    assert all(len(hosts) == 1 for hosts in found.values())
    assert set().union(*found.values()) == set(APPS)


def hear_across_hosts(urls) -> None:
    """A message that a client on one host sends reaches clients on all of them."""
    tabs: dict[str, Tab] = {}
    for number in range(40):
        host, tab = tab_of(urls[number % 2], f"198.51.100.{number}")
        if host in tabs:
            tab.close()
            continue
        tabs[host] = tab
        if len(tabs) == len(APPS):
            break
    assert set(tabs) == set(APPS)
    tabs[APPS[0]].say("ping-all", {"from": APPS[0]})
    heard = {host: tab.hears("pong-all") for host, tab in tabs.items()}
    for tab in tabs.values():
        tab.close()
    assert heard == {host: [{"from": APPS[0]}] for host in APPS}


def test_message_of_a_client_on_one_host_reaches_clients_on_the_others(urls, flush_limits):
    hear_across_hosts(urls)


def test_workers_find_redis_again_after_it_restarted_on_its_host(urls, flush_limits):
    before = [on(host, "systemctl show -p InvocationID --value throat-gevent throat-socketio throat-sync").split() for host in APPS]
    on(REDIS, "systemctl restart redis-server")
    deadline = time.time() + 60
    while time.time() < deadline:
        after = [on(host, "systemctl show -p InvocationID --value throat-gevent throat-socketio throat-sync").split() for host in APPS]
        # A unit that starts is active when it serves.
        active = [on(host, "systemctl is-active throat-gevent throat-socketio", check=False).split() for host in APPS]
        if active == [["active"] * 2] * 3 and all(old[0] != new[0] and old[1] != new[1] for old, new in zip(before, after)):
            break
        time.sleep(1)
    assert [old[2] == new[2] and old[0] != new[0] and old[1] != new[1] for old, new in zip(before, after)] == [True] * 3
    # A worker subscribes at its first client, which may miss what is said to it; whoever comes a moment later hears everything.
    for number in range(12):
        requests.get(f"{urls[0]}/socket.io/?EIO=4&transport=polling", headers={"X-Forwarded-For": f"198.51.100.{number}"}, verify=False, timeout=30)
    time.sleep(2)
    hear_across_hosts(urls)


def test_release_is_built_once_and_the_same_everywhere():
    sums = [on(host, "cd /opt/throat/current/ && find . .venv/ -type f -not -name .built -not -name .served -not -name routes.txt | sort | xargs sha256sum | sha256sum") for host in APPS]
    assert len(set(sums)) == 1
    # Nobody compiles any of it as a worker starts.
    compiled = "cd /opt/throat/current && runuser -u throat -- .venv/bin/python -v -c 'import throat_prod' 2>&1 | grep '^# code object from /opt/' || true"
    assert [on(host, compiled) for host in APPS] == ["", "", ""]
    packages = "dpkg-query -W -f '${Package} ${db:Status-Abbrev}\\n' build-essential gcc nodejs npm git python3-dev 2>/dev/null | grep -c ' ii' || true"
    assert int(on(APPS[0], packages)) == 6
    assert [on(host, packages) for host in APPS[1:]] == ["0", "0"]
    # Its static files have gone through the controller, and have not stayed there. (Another scenario may have its own there just now.)
    assert not (pathlib.Path.home() / ".cache/throat.stack/throat" / on(APPS[0], "basename $(readlink /opt/throat/current)")).exists()


def test_ports_are_open_to_those_hosts_only_that_need_them(open_ports):
    reached, planned = open_ports()
    assert reached == planned
    clients = {(DATABASE, 5432): {*APPS, POOLER}, (POOLER, 6432): set(APPS), (REDIS, 6379): set(APPS), (APPS[1], 5010): set(WEB), (APPS[1], 5012): set(WEB)}
    assert {door: {source for source, *seen in reached if tuple(seen) == door} for door in clients} == clients
    assert {host for source, host, _port in reached if source == "controller"} == set(WEB)


# An advertisement of VRRP, as from somebody with a higher priority; argv[1]: to whom.
FORGED = """
import socket, struct, sys
said = struct.pack("!BBBBBBH4s8x", 0x21, 51, 255, 1, 0, 1, 0, socket.inet_aton("10.213.0.20"))
total = sum(struct.unpack(f"!{len(said) // 2}H", said))
total = (total & 0xFFFF) + (total >> 16)
said = said[:6] + struct.pack("!H", ~total & 0xFFFF) + said[8:]
door = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
door.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
door.sendto(said, (sys.argv[1], 0))
"""


def test_web_servers_have_an_address_together_and_nobody_else_says_who_holds_it(flush_limits):
    def holders() -> list[str]:
        return [host for host in WEB if on(host, "ip -oneline address show to 10.213.0.20")]

    (holder,) = holders()
    flush_limits()
    answer = requests.get("https://10.213.0.20:8450/", headers={"Host": "localhost:8450"}, verify=False, timeout=30)
    assert answer.status_code == 200
    for _ in range(5):
        subprocess.run(["docker", "exec", APPS[0], "python3", "-c", FORGED, {WEB[0]: "10.213.0.21", WEB[1]: "10.213.0.22"}[holder]], check=True)
        time.sleep(0.5)
        assert holders() == [holder]


def test_client_address_is_known_and_cannot_be_forged(urls):
    """Behind two web servers as behind one: the proxy of the inventory is believed, what it passes on of the client's own words is not."""
    for url in urls:
        seen = requests.get(f"{url}/_ref/whoami", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}, verify=False, timeout=30).json()
        assert seen["remote_addr"] == "198.51.100.7"


def test_uploads_are_seen_by_every_web_server(urls):
    on(APPS[2], "echo picture > /var/lib/throat/uploads/cluster.txt; chmod 644 /var/lib/throat/uploads/cluster.txt; chown throat: /var/lib/throat/uploads/cluster.txt")
    assert [requests.get(f"{url}/media/uploads/cluster.txt", verify=False, timeout=30).text for url in urls] == ["picture\n"] * 2
    assert len({on(host, "id -u throat") for host in APPS}) == 1


def test_web_server_that_does_not_see_the_uploads_is_refused(run_site, tmp_path):
    (tmp_path / "more.yml").write_text(f"nginx: {{hosts: {{{REDIS}: }}}}\n")
    run = run_site({}, "-i", str(tmp_path / "more.yml"), check=False)
    assert run.returncode != 0 and run.changed == 0
    assert f"but /var/lib/throat of {REDIS} is on its own disk: mount one file system (NFS, CephFS) there on each of them" in run.said
