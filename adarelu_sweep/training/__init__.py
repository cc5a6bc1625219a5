"""Training one trial, or a pack of them."""
