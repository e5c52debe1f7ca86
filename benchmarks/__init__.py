"""What fleetbus costs, always beside what people would use instead, on the same servers in the same run."""
