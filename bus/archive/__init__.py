"""The archive: the log as sealed segment files, which anybody can check who has the public key.

`docs/reference/archive.md` has the format, for those who would write a verifier of their own.
"""
