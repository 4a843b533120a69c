"""Torture for the store: users killed, power cut, system calls failing; and a checker that trusts none of its code."""
