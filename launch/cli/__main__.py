"""`python -m launch.cli`, the same as `callboard`."""

import sys

from launch.cli import main

sys.exit(main())
