"""Figures: `plots` (confusion matrix, reliability diagram, risk and coverage), `attention` (overlays)."""
