# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""The text of a template, without a copy of all variables for each."""

from __future__ import annotations

DOCUMENTATION = """
name: rendered
short_description: The text of a template
description:
  - What the module P(ansible.builtin.template#module) would write, for comparing it with what a host has.
  - As P(ansible.builtin.template#lookup), which copies all variables before each template, down to the last string of the plan. That took a tenth
    of a run with nothing to do, on the controller and for each host. A template that changed a variable in place would change it for the expression around
    it as well; none does.
options:
  _terms:
    description: Paths of templates below C(templates) of the role.
    type: list
    elements: str
    required: true
  template_vars:
    description: Variables of these templates alone.
    type: dict
    default: {}
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Write it where it is another one
  ansible.builtin.template:
    src: etc/redis/throat.conf.j2
    dest: /etc/redis/throat.conf
    mode: "0640"
  when: >-
    lookup('throat.stack.rendered', 'etc/redis/throat.conf.j2')
    | throat.stack.differs(ansible_facts['files'], '/etc/redis/throat.conf', 'root', 'root', '0640')
"""
RETURN = """
_raw:
  description: The text of each.
  type: list
  elements: str
"""

import os
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import generate_ansible_template_vars, trust_as_template


class LookupModule(LookupBase):
    """What the documentation above says."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **options: Any) -> list[str]:
        self.set_options(var_options=variables, direct=options)
        return [self._rendered(term, {**variables, **self.get_option("template_vars")}) for term in terms]

    def _rendered(self, term: str, variables: dict[str, Any]) -> str:
        path = self.find_file_in_search_path(variables, "templates", term)
        if not path:
            raise AnsibleLookupError(f"{term}: no template of this name")
        places = [os.path.join(place, below) for place in variables.get("ansible_search_path", []) for below in ("templates", "")]
        # As the module has it, what the inventory says of ansible_managed wins.
        of_template = {name: value for name, value in generate_ansible_template_vars(term, path).items() if name != "ansible_managed" or name not in variables}
        templar = self._templar.copy_with_new_env(searchpath=[os.path.dirname(path), *places], available_variables={**variables, **of_template})
        return templar.template(trust_as_template(self._loader.get_text_file_contents(path)), escape_backslashes=False)
