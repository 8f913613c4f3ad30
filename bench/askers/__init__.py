"""Two processes and one pattern, once per way to talk: asks one at a time, and a stream of tells.

Each module here is a program: `python -m bench.askers.NAME [options]` starts its answering side,
measures, and prints one JSON list of `bench.askers.pattern.Row`. They run under the interpreter of
their peer, so they import the standard library, their peer and `pattern` alone.
"""
