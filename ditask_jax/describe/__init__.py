"""What a configuration means, and what it costs, before anything is trained."""
