"""Figures from plain arrays, drawn by Matplotlib: one file per figure."""
