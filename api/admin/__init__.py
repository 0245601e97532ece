"""`/admin/v1`: what operators see and change over HTTP, by the same code as the commands."""
