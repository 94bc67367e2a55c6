"""What a checkpoint costs, beside what it costs with others: `make bench`."""
