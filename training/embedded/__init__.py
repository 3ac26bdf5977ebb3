"""How the small files in core/embedded are made, from which public packages."""
