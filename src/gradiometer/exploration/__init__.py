"""Issue 4: how SGD explores. Temperature, stationary laws, samplers, chains, snapshots and
ensembles."""
