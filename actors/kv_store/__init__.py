"""The server that keeps KV blocks in this machine's memory for all of its engines: LMCache's."""
