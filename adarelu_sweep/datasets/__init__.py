"""Data sets: fetched, verified, held on the device."""
