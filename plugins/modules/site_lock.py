# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Documentation of the action plugin of the same name."""

DOCUMENTATION = """
module: site_lock
short_description: Let one run at a time change a site
description:
  - Takes a lock on the host for this run of ansible-playbook, or fails with a line that says who has it and since when. In check mode none is taken.
  - The lock is a transient unit of systemd, C(ansible-<site>.service). A process beside the run tells it every ten seconds to go on, and stops it when the
    run and all its processes have ended. A minute after the last of it was heard, since the controller was switched off for one, the unit ends by itself;
    who comes meanwhile waits for that.
  - A run whose unit has ended, since somebody has stopped it or the host was booted, is interrupted within ten seconds.
options:
  site:
    description: Name of the site.
    type: str
    required: true
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Let no other run change the site meanwhile
  throat.stack.site_lock:
    site: throat
  run_once: true
"""
RETURN = ""
