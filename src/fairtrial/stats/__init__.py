"""Pure: moments, tests, intervals, sequences. numpy and scipy only."""
