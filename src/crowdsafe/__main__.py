"""``python -m crowdsafe`` is ``crowdsafe``."""

from __future__ import annotations

import sys

from crowdsafe.cli import main

if __name__ == "__main__":
    sys.exit(main())
