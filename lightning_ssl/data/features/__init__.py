"""Features of a frozen network, computed once and stored."""
