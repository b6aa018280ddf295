"""What stands in for parts that take too long for a drill."""
