"""Training: schedules, optimiser, checkpoints, the metrics log and the step that ties them together."""
