"""Votes, battles and behaviour in SQLite. No torch, no gradio."""
