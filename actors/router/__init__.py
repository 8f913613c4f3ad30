"""RouterActor: where a request shall run.

Nothing is imported here: the command line reads `settings` alone, and that within milliseconds.
"""
