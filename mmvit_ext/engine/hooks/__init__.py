"""What happens during a run: checkpoints, resuming, reports, drawings."""
