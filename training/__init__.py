"""Separate processes that learn from votes and publish adapters. No gradio."""
