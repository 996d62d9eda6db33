"""The evaluation on held-out people: its protocol, its numbers, and the page that they become."""
