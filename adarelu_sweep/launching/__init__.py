"""Where workers live, what is said to them, and the worker itself."""
