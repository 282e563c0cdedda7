"""Models small enough to be made in a second."""
