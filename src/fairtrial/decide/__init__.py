"""Pure: readings to decisions."""
