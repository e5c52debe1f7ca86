"""`python -m fleetbus`: the same as `fleetbus`."""

from fleetbus.cli import main

if __name__ == "__main__":
    main()
