"""Checks Callboard against releases of vLLM: `python -m launch.compat`, or `make compat`."""
