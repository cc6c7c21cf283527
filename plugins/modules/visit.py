# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Documentation of the action plugin of the same name."""

DOCUMENTATION = """
module: visit
short_description: Ask a site for pages, from the controller
description:
  - Asks for each page as a visitor does, and fails with a line for each that is not answered as it should be. Proxies of the environment are not used.
  - As M(ansible.builtin.uri), which starts a Python for each page on the controller; a fifth of a run with nothing to do was that.
options:
  url:
    description: Address of the site.
    type: str
    required: true
  pages:
    description: Its pages.
    type: list
    elements: dict
    required: true
    suboptions:
      asked:
        description: Who is asked by it, for the line that says what is wrong.
        type: str
      path:
        description: Path of the page, from its slash on.
        type: str
        required: true
  accepted:
    description: Regular expression of what counts as an answer, from the beginning of C(<status>:<X-Throat-Release>:<Retry-After>).
    type: str
    default: "200:"
  validate_certs:
    description: Whether its certificate must be one that the controller believes.
    type: bool
    default: true
  tries:
    description: How often a page is asked for, at most, with two seconds between.
    type: int
    default: 4
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Ask for the first page
  throat.stack.visit:
    url: https://throat.example.com
    pages:
      - path: /
"""
RETURN = """
reached:
  description: Whether anybody has answered. Whoever shows a certificate that is not believed has.
  type: bool
  returned: always
"""
