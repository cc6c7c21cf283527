"""The two sites of one host, each as its visitors and its operator know it."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest
import requests
import yaml
from visitors import Tab


@dataclasses.dataclass(frozen=True)
class Site:
    """A site by the inventory that describes it; name is what it is called on the host."""

    name: str
    inventory: pathlib.Path
    redis_port: int

    @property
    def url(self) -> str:
        (host,) = yaml.safe_load((self.inventory / "hosts.yml").read_text())["throat"]["hosts"].values()
        return host["throat_public_url"]

    def secret(self, name: str) -> str:
        return (self.inventory / ".secrets" / name).read_text().strip()

    @property
    def redis(self) -> str:
        """The command that asks its Redis."""
        return f"redis-cli -p {self.redis_port} --no-auth-warning --user throat --pass {self.secret('redis_password')}"

    def visitor(self, cookies: dict[str, str] | None = None) -> requests.Session:
        """Somebody who has these cookies, and keeps no others: both sites are on one host name, whose cookies a browser would mix up."""
        session = requests.Session()
        session.verify, session.trust_env = False, False
        session.cookies.update(cookies or {})
        return session

    def admin(self) -> requests.Session:
        """Its first administrator, logged in."""
        visitor = self.visitor()
        self.fill_in(visitor, "/login", username="admin", password=self.secret("admin_password"))
        assert "/u/admin" in visitor.get(f"{self.url}/").text
        return visitor

    def fill_in(self, visitor: requests.Session, path: str, **values: str) -> None:
        """Send the form of a page, which leads on to another one."""
        hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', visitor.get(self.url + path).text)
        assert visitor.post(self.url + path, data={**dict(hidden), **values}, allow_redirects=False).status_code == 302

    def write(self, title: str) -> None:
        """Write a post as the administrator."""
        self.fill_in(self.admin(), "/submit/text/welcome", sub="welcome", title=title, content="hello")

    def listen(self) -> Tab:
        """An open browser tab that hears of new posts."""
        tab = Tab(self.url)
        tab.say("subscribe", {"target": "/all/new"})
        return tab


@pytest.fixture(scope="session")
def first(scenario) -> Site:
    return Site("throat", scenario / "inventory", 6379)


@pytest.fixture(scope="session")
def second(scenario, run_site) -> Site:
    """Converged beside the first."""
    site = Site("throat_test", scenario / "second", 6380)
    run_site(inventory=site.inventory)
    return site


@pytest.fixture(params=[False, True], ids=["first to second", "second to first"])
def pair(request, first, second) -> tuple[Site, Site]:
    """Both sites, in both orders."""
    return (second, first) if request.param else (first, second)


@pytest.fixture
def forget_limits(first, second, on_host):
    """Both sites forget what they have counted."""
    for site in (first, second):
        on_host(f"{site.redis} --scan --pattern 'LIMITER*' | xargs --no-run-if-empty {site.redis} del")


@pytest.fixture
def query(on_host):
    """Ask a database as the server's own administrator."""

    def ask(database: str, sql: str) -> list[str]:
        return on_host(f"runuser -u postgres -- psql -d {database} -Atq", stdin=sql).splitlines()

    return ask


@pytest.fixture
def state(on_host):
    """What must not change of a site while the other one is worked on: its release, when its units were started, and its files."""

    def look(site: Site) -> str:
        return on_host(
            f"readlink /opt/{site.name}/current; systemctl show -p Id,InvocationID,MainPID '{site.name}-*.service' '{site.name}-*.socket'; "
            f"sha256sum /etc/{site.name}/* /etc/systemd/system/{site.name}-*.s* /etc/nginx/sites-enabled/zz-{site.name}.conf"
        )

    return look
