"""Files that tables are kept in."""
