"""Decisions only: pure functions of what is known and what happened. No clock, no I/O, no Trio."""
