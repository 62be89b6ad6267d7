"""Pure: unit to bucket to variant."""
