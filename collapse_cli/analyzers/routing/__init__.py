"""Where the tokens of a mixture of experts go: load of the experts, confidence of the router."""
