"""From a step of the plan to its batch of views."""
