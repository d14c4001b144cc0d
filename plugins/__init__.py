"""The built-in components, registered the way a third party's are."""
