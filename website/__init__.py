"""The documentation: its pages put together, and what in them comes from the code. `make docs`."""
