"""The causes: how each is recognised, what it means and what to change."""
