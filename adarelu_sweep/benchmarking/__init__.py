"""How fast this machine trains, measured, kept, and what follows from it for a study."""
