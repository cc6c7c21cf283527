# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Documentation of the action plugin of the same name."""

DOCUMENTATION = """
module: deploy_lock
short_description: Let one deploy at a time go on
description:
  - Takes a lock on the host for this run of ansible-playbook, or fails with a line that says who has it and since when.
  - A run that was killed does not keep it - one on the same controller whose process is gone, and one on another that has been silent for an hour, is
    overridden.
  - A file that does not say whose lock it is, since a disk was full or somebody has made it by hand, is a lock all the same, for an hour.
options:
  path:
    description: File that is the lock, in a directory that is there; in /run it does not outlive the host's next boot.
    type: path
    required: true
  state:
    description: C(absent) gives it back; the lock of another run is left alone.
    type: str
    choices: [present, absent]
    default: present
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Let nobody else deploy meanwhile
  throat.stack.deploy_lock:
    path: /run/throat-deploy.lock
"""
RETURN = ""
