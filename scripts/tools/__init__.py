"""What measures and publishes the bundle; no run of a user needs it."""
