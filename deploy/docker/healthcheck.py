"""Exit with 0 when the daemon of this container takes exports, else with 1 and the reason.

`SPANTOLL_HEALTH_URL` names the page when the operator's listener is elsewhere or speaks TLS.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

URL = os.environ.get("SPANTOLL_HEALTH_URL", "http://127.0.0.1:8102/-/ready")


def main() -> int:
    """Ask once; print why not."""
    # the certificate is that of a public name and this is loopback: there is nobody in between to be kept out
    own = ssl._create_unverified_context() if URL.startswith("https:") else None  # noqa: S323, SLF001 -- see the line above
    try:
        with urllib.request.urlopen(URL, timeout=4, context=own) as answer:  # noqa: S310 -- the operator's own address
            answer.read()
    except urllib.error.HTTPError as refusal:
        print(refusal.read(1024).decode(errors="replace"))
        return 1
    except OSError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
