"""The demo: its people, the run from photos to pictures, the contact sheet and the report."""
