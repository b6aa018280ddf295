"""The systems of the review beside the CNN-GRU: same cells, same folds, one row a system, one table."""
