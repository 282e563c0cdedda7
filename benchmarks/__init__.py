"""Measurements that take too long for `make check`."""
