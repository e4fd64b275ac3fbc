"""Pictures of results; matplotlib is loaded when one is drawn."""
