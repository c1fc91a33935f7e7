"""What features should not depend on: groups such as site or speaker, and preprocessing."""
