"""Whether tokens, and what is pooled from them, keep apart: copies within a sequence, length, lone huge entries."""
