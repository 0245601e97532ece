"""What `aqueduct batch` is made of: the gateway over HTTP, a file to send, results to keep, progress to watch."""
