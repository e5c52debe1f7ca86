"""What an auditor asks: is the log what was said, and who did what, when and why. Reads archive and log, no views."""
