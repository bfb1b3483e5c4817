"""Worlds in which policies are tried before they serve, and the loop that tries many seeds at once. `catalog` names the worlds."""
