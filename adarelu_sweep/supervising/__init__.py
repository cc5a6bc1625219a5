"""Deciding what is trained next, and what becomes of it."""
