"""The status page: HTML and SVG made on the server, readable with scripting off."""
