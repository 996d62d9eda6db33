"""Identities and prompts to pictures."""
