"""What flags an engine has: a table extracted from vLLM once per installed version."""
