"""``python -m disaggregatedset``."""

import sys

from disaggregatedset.cli import main

sys.exit(main())
