"""Forms of the admin: selects from the registry, and a field for each option a vendor or kind declares."""
