"""The dump's size by dump level and compression."""
