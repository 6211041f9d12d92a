"""Everything that imports Ray: the connection, the workers that score, train, search and check, and the jobs client."""
