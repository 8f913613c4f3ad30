"""The truth about health: what died, what hangs, what is merely busy, and how one knows.

`core` judges; it sees the world through `events`. `judge` holds the rules for one life, `pace` what
the engine's own steps teach, `node` what follows for the machine. The rest looks: `processes` at
the kernel, `records` at shared memory, `canary` at engines, `gpu` at devices; `server` tells.
"""
