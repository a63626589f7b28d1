"""`jnas bench`: time, memory and compilation of the steps of a search, and predictions ahead of time."""
