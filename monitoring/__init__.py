"""Monitoring: what the last window says, and what to do about it."""
