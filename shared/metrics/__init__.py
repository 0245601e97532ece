"""What is counted, and how it reaches `/metrics`: names, a process's own counts, Redis, Prometheus's text.

A process counts in plain numbers of its own (`counts`) and adds what is new to hashes in Redis every two seconds
(`publisher`). Any API process makes the whole of them (`exposition`), so that it does not matter which one is asked.
"""
