"""Ask a site for pages, from the controller."""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
from typing import Any

from ansible.module_utils.urls import SSLValidationError, open_url
from ansible.plugins.action import ActionBase

TIMEOUT, PAUSE = 30, 2
PAGE = {"asked": {"type": "str"}, "path": {"type": "str", "required": True}}


def ask(url: str, validate_certs: bool) -> tuple[str, bool, str]:
    """Return what is said, as the option "accepted" has it, whether anybody has answered, and a line that says so."""
    try:
        try:
            # By the name that Ansible's own module has: some proxies turn away what Python says of itself.
            answer = open_url(url, validate_certs=validate_certs, use_proxy=False, timeout=TIMEOUT, follow_redirects="safe", http_agent="ansible-httpget")
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            said = f"{answer.code}:{answer.headers.get('X-Throat-Release', '')}:{answer.headers.get('Retry-After', '')}"
        return said, True, f"{url} answers {answer.code}"
    except (OSError, ValueError, http.client.HTTPException, SSLValidationError) as error:
        reason = getattr(error, "reason", error)
        # Whoever shows a certificate has answered.
        return "", isinstance(reason, (ssl.SSLError, SSLValidationError)), f"{url} cannot be read: {reason or type(error).__name__}"


class ActionModule(ActionBase):
    """What plugins/modules/visit.py documents; no host is asked by Ansible."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec(
            {
                "url": {"type": "str", "required": True},
                "pages": {"type": "list", "elements": "dict", "options": PAGE, "required": True},
                "accepted": {"type": "str", "default": "200:"},
                "validate_certs": {"type": "bool", "default": True},
                "tries": {"type": "int", "default": 4},
            }
        )
        wrong = {page["path"]: page["asked"] for page in options["pages"]}
        for number in range(options["tries"]):
            time.sleep(PAUSE if number else 0)
            lines, reached = [], False
            for path, asked in list(wrong.items()):
                said, answered, line = ask(options["url"] + path, options["validate_certs"])
                reached |= answered
                if re.match(options["accepted"], said):
                    del wrong[path]
                else:
                    lines.append(f"{asked}: {line}" if asked else line)
                if not answered:
                    # Nor will it be for the other pages.
                    break
            if not wrong:
                return {"changed": False, "reached": True}
        return {"failed": True, "changed": False, "reached": reached, "msg": "; ".join(lines)}
