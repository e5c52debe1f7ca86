"""The commands, one file for each entity. `fleetbus.cli` imports a file when one of its commands is called."""
