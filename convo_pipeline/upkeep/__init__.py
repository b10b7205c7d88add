"""Keep the stored files sound: verify, rebuild, salvage, rename, compact."""
