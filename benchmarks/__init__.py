"""Contenders side by side in one run; only ratios are printed, and no test depends on them."""
