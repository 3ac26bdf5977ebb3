"""One file per tab; each builder receives callables and imports no model and no store."""
