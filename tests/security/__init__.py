"""What an attacker, or a slip, must not achieve."""
