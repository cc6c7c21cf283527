#!/usr/bin/python
"""Tell which packages a host has and how its services do."""

from __future__ import annotations

DOCUMENTATION = """
module: host_state
short_description: Tell which packages a host has and how its services do
description:
  - Returns, of what M(ansible.builtin.package_facts) and M(ansible.builtin.service_facts) return, the part that the roles of this collection ask for.
  - Those take seconds, since they ask systemd once for each unit, and return thousands of values, which Ansible copies for each task of the run
    and each look into hostvars.
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Look at its packages and services
  throat.stack.host_state:
"""
RETURN = """
ansible_facts:
  description: Facts to add to ansible_facts.
  returned: always
  type: dict
  contains:
    packages:
      description: Names of the installed packages.
      type: list
      elements: str
    services:
      description: >-
        Name of each loaded service, as nginx.service, to its C(name), C(state) (V(running) or what else systemd says of it), C(status) (V(enabled),
        V(disabled), ...) and C(source) (V(systemd)).
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule


def packages(shown: str) -> list[str]:
    """Return the installed packages of lines like "ii  nginx"; others have left their configuration only."""
    return sorted({line.split()[1] for line in shown.splitlines() if line[1:2] == "i"})


def services(shown: str) -> dict[str, dict[str, str]]:
    """Return the services, by name, of what "systemctl show --property=Id,SubState,UnitFileState" prints."""
    found = {}
    for block in filter(None, shown.split("\n\n")):
        unit = dict(line.split("=", 1) for line in block.strip().splitlines())
        found[unit["Id"]] = {"name": unit["Id"], "state": unit["SubState"], "status": unit["UnitFileState"], "source": "systemd"}
    return found


def main() -> None:
    module = AnsibleModule({}, supports_check_mode=True)

    def ask(*command: str) -> str:
        return module.run_command(list(command), check_rc=True)[1]

    facts = {
        "packages": packages(ask("dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\n")),
        "services": services(ask("systemctl", "show", "--property=Id,SubState,UnitFileState", "*.service")),
    }
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
