"""Pure: from a set to the manifests of its children."""
