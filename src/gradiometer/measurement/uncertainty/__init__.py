"""Intervals of means, ratios, differences and slopes: made here once, for all gauges."""
