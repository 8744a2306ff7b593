"""What a watch does on request: looks at the model, snapshots, an ensemble, a fork."""
