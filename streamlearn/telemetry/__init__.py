"""What the worker says about itself: metrics, health, logs."""
