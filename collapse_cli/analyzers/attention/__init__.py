"""Where the heads of a layer look: how sharply, whether it follows the query, whether heads differ, what is parked."""
