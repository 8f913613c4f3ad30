"""structlog, imported without rich, which it would load where it is installed.

Rich is for tracebacks that we do not show; Litestar and vLLM bring it along, and loading it takes a
fifth of the time that a process needs to start. It stays free for others to import.
"""
# ruff: noqa: E402

from __future__ import annotations

import sys

_hide = "rich" not in sys.modules
if _hide:
    sys.modules["rich"] = None  # type: ignore[assignment]

import structlog

if _hide:
    del sys.modules["rich"]

__all__ = ["structlog"]
