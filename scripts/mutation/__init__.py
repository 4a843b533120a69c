"""Mutation of safety lines: each is removed in a private copy of the tree, and the tests named beside it must fail."""
