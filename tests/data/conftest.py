"""What the tests of data share: chat templates in the shapes of well-known ones (chat_templates.py)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
