"""The loops of the control process: publish allocations, refresh views, keep the router's workers alive."""
