"""See `pathapi.clouds.gs`."""

from pathapi.clouds.gs import GSPath

__all__ = ["GSPath"]
