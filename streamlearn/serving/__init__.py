"""Tell inference servers about new versions."""
