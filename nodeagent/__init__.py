"""The hand on each machine: takes deliveries, runs jobs in workers, says what came of them."""
