"""Values only: what a fleet is, what happened, what is to be done, and what the supervisor knows."""
