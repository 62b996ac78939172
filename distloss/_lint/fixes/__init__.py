"""How what is found is mended: edits of source that keep comments and layout."""
