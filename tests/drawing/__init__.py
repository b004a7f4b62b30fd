"""Draws a board with real answers, near enough to Grafana to judge it by the picture."""
