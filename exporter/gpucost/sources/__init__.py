"""One outside system a module: `read()` fetches, `parse_*` thinks."""
