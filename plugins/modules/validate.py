"""Documentation of the action plugin of the same name."""

DOCUMENTATION = """
module: validate
short_description: Refuse a role's variables and platform, one line per error
description:
  - Compares all variables that begin with a prefix with an argument specification - unknown names (with the nearest known one), missing
    and wrong values, secrets that are still an example's.
  - Where facts are gathered, also compares the platform with the one in C(main.yml) beside the specification.
  - Ansible's own check of argument specifications dumps the whole specification, prints secrets in type errors, and does not see misspelt names.
options:
  spec:
    description: Path of an C(argument_specs.yml); its entry point C(main) is used.
    type: path
    required: true
  prefix:
    description: What the names of the variables begin with.
    type: str
    required: true
  ignore:
    description: Longer prefixes that belong to others.
    type: list
    elements: str
    default: []
  siblings:
    description: Paths of further specifications; a name that is one of their variables but for a letter or two of its prefix is refused as well.
    type: list
    elements: path
    default: []
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Refuse unknown and impossible values
  throat.stack.validate:
    spec: "{{ role_path }}/meta/argument_specs.yml"
    prefix: nginx_
"""
RETURN = ""
