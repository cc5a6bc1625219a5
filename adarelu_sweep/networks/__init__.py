"""The networks, each taking an activation factory and a width."""
