"""Files that appear whole or not at all, and arrays in one file with a checksum each."""
