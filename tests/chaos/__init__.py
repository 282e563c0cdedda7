"""Kill, cut, slow, corrupt: what must not change anything but the time."""
