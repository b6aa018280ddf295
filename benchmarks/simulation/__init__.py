"""A hospital's traffic, made up from what a model's reference shows, and what a monitor makes of it."""
