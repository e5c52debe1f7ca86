"""The REST API: one file for each kind of entity. A resource translates between HTTP and a part, and no more."""
