"""Ports and adapters that move events, and admission. Knows nothing of nodes or jobs."""
