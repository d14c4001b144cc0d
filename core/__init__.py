"""The core: hook specs, records, registry, options, configuration, run store. Imports neither torch nor numpy."""
