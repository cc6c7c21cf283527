# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Documentation of the action plugin of the same name."""

DOCUMENTATION = """
module: new_secrets
short_description: Change secrets that are kept on the controller
description:
  - Makes new secrets beside those in force, as C(<name>.next). A site's plan has these from then on; a secret that has one already keeps it.
  - Afterwards puts them in force, in the place of those of before.
options:
  directory:
    description: Directory on the controller, C(throat_secrets_dir) of the inventory.
    type: str
    required: true
  names:
    description: Secrets to make anew.
    type: list
    elements: str
    default: []
  put_in_force:
    description: Whether each secret that was made takes the place of the one before. The session key of before is kept as C(secret_key.previous).
    type: bool
    default: false
  forget_sessions:
    description: Whether no session key of before is kept.
    type: bool
    default: false
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Make another password of Redis
  throat.stack.new_secrets:
    directory: /root/mysite/.secrets
    names: [redis_password]

- name: Put it in force
  throat.stack.new_secrets:
    directory: /root/mysite/.secrets
    put_in_force: true
"""
RETURN = """
names:
  description: Secrets that were made, or put in force.
  returned: always
  type: list
  elements: str
"""
