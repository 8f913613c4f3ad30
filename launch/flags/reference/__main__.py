"""Prints docs/from-dynamo.md."""

from __future__ import annotations

import sys

from launch.flags.reference.page import page

sys.stdout.write(page())
