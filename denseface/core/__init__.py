"""Foundations of every other package: errors, files, locks, signals, threads. It knows neither faces nor MXNet."""
