"""What a generator produces, beside real data: variety, realism, coverage, copies."""
