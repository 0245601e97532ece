"""How requests and runs of jobs ended, kept in Redis for a while: told by each process in batches, read by operators.

A *request* is what a caller sent, told by the API process that answered it, refused ones too; a *run* is one attempt
of a job, told by the worker that held it. Never a prompt, an answer or a message of a backend.
"""
