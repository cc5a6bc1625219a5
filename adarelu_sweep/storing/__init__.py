"""Where the results of trials lie: in folders, or under the keys of an object store."""
