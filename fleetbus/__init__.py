"""The front door: command line, settings from the environment, and wiring. Only here are real adapters named."""
