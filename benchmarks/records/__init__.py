"""How often following a claim of triage helped: counted, pooled, and judged."""
