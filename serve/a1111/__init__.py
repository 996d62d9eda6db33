"""AUTOMATIC1111's API, as its clients call it."""
