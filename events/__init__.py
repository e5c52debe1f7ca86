"""What can be said on fleetbus: the envelope, the types, and the way to and from bytes.

Pure: nothing here reads a clock, opens a socket or draws a random number.
"""
