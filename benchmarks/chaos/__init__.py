"""Fault drills: the whole site under steady load, one fault at a time, and what became of every answer."""
