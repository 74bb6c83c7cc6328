"""What a step does with gradients: rates and decay by group, schedules, gradient surgery, hooks of methods."""
