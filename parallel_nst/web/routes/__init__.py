"""What stands at each address of the HTTP API; `web.api` puts them together."""
