"""What `bench.kv_index` measures: one work for all, and each index in a process of its own."""
