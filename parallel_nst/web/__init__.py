"""The page and the HTTP API: `pnst serve`."""
