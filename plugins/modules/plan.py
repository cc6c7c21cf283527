# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Documentation of the action plugin of the same name."""

DOCUMENTATION = """
module: plan
short_description: Work out what each role of the site is told on each host
description:
  - Reads the variables of all hosts of the inventory, whatever the limit, converts and checks them, and derives what nobody has set.
  - The result holds secrets - register it with C(no_log), and show C(refusals) by a task of their own.
options:
  make_secrets:
    description: Whether secrets that nobody gives are made and kept in C(throat_secrets_dir). Without it, something stands in for them.
    type: bool
    default: true
  needs_source:
    description: Whether the run builds a release, so that a source that is not on the controller is refused.
    type: bool
    default: true
  whole_site:
    description: Whether the run tells all parts of the site what changes. Otherwise it is refused while secrets in C(throat_secrets_dir) are being changed.
    type: bool
    default: true
  rotate:
    description:
      - Secrets that the run is to change, none for all that can be. Those that cannot be are refused.
      - Without it, no secret is to be changed.
    type: list
    elements: str
  forget_sessions:
    description: Whether sessions that the previous key of C(throat_secrets_dir) has signed are known no more.
    type: bool
    default: false
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Make the plan
  throat.stack.plan:
  register: __plan
  run_once: true
  no_log: true
"""
RETURN = """
refusals:
  description: One line per reason why the inventory cannot work.
  returned: always
  type: list
  elements: str
notes:
  description: One line per thing that works and will hurt.
  returned: always
  type: list
  elements: str
budget:
  description: The connection budget as a table.
  returned: always
  type: str
violations:
  description: Those of the refusals that say which database connections do not fit.
  returned: always
  type: list
  elements: str
rotated:
  description: Secrets that are to be changed.
  returned: with C(rotate)
  type: list
  elements: str
hosts:
  description: Host to C(site), what playbooks ask, and each of its roles, the role's arguments without its name in front. Empty where there are refusals.
  returned: always
  type: dict
"""
