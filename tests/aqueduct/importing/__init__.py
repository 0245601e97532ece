"""Configurations of other gateways, and what is made of them."""
