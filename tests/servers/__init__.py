"""Real servers for tests: RabbitMQ, Redis, InfluxDB and SecantusDB (MongoDB's protocol).

Each runs from the distribution's packages on ports, in folders and with passwords of its own, and
listens on loopback only. Nothing here reads or writes /etc or the system's services.
``python -m tests.servers up|down|status|env`` does by hand what the fixtures do.
"""
