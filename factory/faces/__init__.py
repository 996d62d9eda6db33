"""One photo to its faces: decoded, found, aligned, parsed, encoded; and the process that a file may kill."""
