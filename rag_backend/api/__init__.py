"""HTTP in, HTTP out: routes and wire formats, no decisions."""
