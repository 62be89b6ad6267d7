"""The loops of the control process: refresh, and the process tree."""
