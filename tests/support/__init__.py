"""What tests and benchmarks share: real PostgreSQL servers and real `crowdsafe serve` processes."""
