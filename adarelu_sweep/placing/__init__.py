"""Where workers may run, and how much each gets."""
