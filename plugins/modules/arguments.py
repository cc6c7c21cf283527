# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Documentation of the action plugin of the same name."""

DOCUMENTATION = """
module: arguments
short_description: Convert and check the arguments of a role that is used by itself
description:
  - Compares all variables that begin with the role's name with its argument specification - unknown names (with the nearest known one), missing
    and wrong values, secrets that are still an example's - and returns them converted and complete.
  - Where facts are gathered, also compares the platform with those of the role's C(meta/main.yml).
  - The result holds secrets - register it with C(no_log), and show C(refusals) by a task of their own.
  - M(throat.stack.plan) does the same for a whole site.
options:
  role:
    description: Name of the role.
    type: str
    required: true
    choices: [throat_gunicorn, throat_backup, postgres, pgbouncer, redis, nginx, firewall]
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Understand the arguments
  throat.stack.arguments:
    role: nginx
  register: __nginx_own
  no_log: true
"""
RETURN = """
refusals:
  description: One line per error.
  returned: always
  type: list
  elements: str
made:
  description: The arguments, without the role's name in front of each.
  returned: always
  type: dict
"""
