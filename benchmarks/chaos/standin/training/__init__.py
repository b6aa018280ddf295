"""In place of the pipeline in drills of the trigger: found first on PYTHONPATH there, and only there."""
