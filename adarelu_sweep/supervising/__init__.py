"""Deciding what is trained where, and keeping the books."""
