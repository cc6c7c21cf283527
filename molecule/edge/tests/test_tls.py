"""TLS as Mozilla's intermediate list has it, from what a client can agree on with each host."""

import json

import pytest
import testinfra

HOSTS = {"throat-stack-edge": "127.0.0.1:8447 -servername localhost", "throat-stack-acme": "127.0.0.1:443 -servername site.example.com"}


@pytest.fixture(params=HOSTS)
def agree(request):
    """What "openssl s_client" on the host itself says, given its options."""
    host = testinfra.get_host(f"docker://{request.param}")
    return lambda options: host.run(f"echo | openssl s_client -connect {HOSTS[request.param]} {options} 2>&1 | iconv -c -f ascii").stdout


def test_protocols_and_ciphers_are_those_of_the_list(agree):
    for refused in ("-tls1", "-tls1_1", "-tls1_2 -cipher ECDHE-ECDSA-AES256-SHA", "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256", "-groups secp521r1 -tls1_3"):
        assert "Cipher is (NONE)" in agree(f"{refused} -cipher DEFAULT@SECLEVEL=0" if "-cipher" not in refused else refused), refused
    for number, accepted in enumerate(("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")):
        assert f"Cipher is ECDHE-ECDSA-{accepted}" in agree(f"-tls1_2 -cipher ECDHE-ECDSA-{accepted}"), number
    assert "ALPN protocol: h2" in agree("-alpn h2")
    # No responder is named any more; and nothing is said before the handshake.
    assert "OCSP response: no response sent" in agree("-status")
    assert "Secure Renegotiation IS supported" in agree("-tls1_2")


def test_key_exchange_and_tickets_are_what_each_debian_has(agree):
    is_new = "X25519MLKEM768" in agree("-tls1_3")
    assert ("TLS session ticket:" in agree("-tls1_2")) == is_new


@pytest.mark.campaign
@pytest.mark.parametrize("name", HOSTS)
def test_testssl_finds_nothing_above_low(name):
    # Asked by Debian 13's testssl.sh: the one of Debian 12 is from before Mozilla left the order of ciphers to the client.
    asker, asked = (testinfra.get_host(f"docker://{host}") for host in ("throat-stack-acme", name))
    asker.check_output("command -v testssl || apt-get install -y -qq --no-install-recommends testssl.sh bsdextrautils bind9-host >/dev/null 2>&1")
    port, server = HOSTS[name].partition(":")[2].split(" -servername ")
    address = asked.interface("eth0").addresses[0]
    asker.run(f"cd /tmp && rm -f testssl.json && testssl --quiet --warnings batch --ip {address} --jsonfile testssl.json https://{server}:{port}")
    findings = json.loads(asker.check_output("cat /tmp/testssl.json"))
    found = {severity: [finding["id"] for finding in findings if finding["severity"] == severity] for severity in ("LOW", "MEDIUM", "HIGH", "CRITICAL")}
    print(f"testssl.sh on {asked.check_output('nginx -v 2>&1')}: {len(findings)} findings, {found}")
    # Nobody has signed the certificate, or an authority for tests, and the grade follows from that.
    above = [name for severity in ("MEDIUM", "HIGH", "CRITICAL") for name in found[severity] if not name.startswith("cert_") and name != "overall_grade"]
    assert len(findings) > 100 and above == []
