"""Training: one DVC stage a file, from data to a promoted model."""
