"""Endpoints put to work: transfers, routes, the demo and the mock site."""
