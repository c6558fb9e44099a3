"""What the trolley is made of: queries, the objects that are found, caches, storages, the plan of a download."""
