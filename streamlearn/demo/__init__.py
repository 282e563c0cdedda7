"""The guided run on embedded parts."""
