"""The words: plain frozen data, standard library and pydantic only, never torch."""
