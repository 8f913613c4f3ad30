"""EngineActor: one engine, on the GPU or CPU, behind the bus."""
