"""Deciders (pure), the one loop that runs them, and deliveries."""
