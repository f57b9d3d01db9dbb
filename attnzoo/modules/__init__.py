"""The attention modules, one paper per file; the registry finds them by itself."""
