"""llm-d's published routing workload, and a topology in virtual time that it is run on."""
