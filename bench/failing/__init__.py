"""What `bench.failover` is made of: who is killed, who is followed, who sees it."""
