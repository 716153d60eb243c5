"""Processes, models and memory: everything about running llama-server, and nothing about users or HTTP routes."""
