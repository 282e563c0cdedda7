"""Kafka records become arrivals: decode, clean, tokenize, buffer."""
