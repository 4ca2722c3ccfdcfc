"""Pictures, records and verification sets, from files to arrays; without MXNet."""
