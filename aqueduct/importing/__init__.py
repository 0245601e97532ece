"""Configurations of other gateways, made into one of ours."""
