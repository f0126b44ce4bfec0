"""``python -m pocketdet`` is ``pocketdet``."""

import sys

from pocketdet.cli import main

sys.exit(main())
