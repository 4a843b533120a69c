"""See `pathapi.clouds.gs`."""

from pathapi.clouds.gs import GSClient

__all__ = ["GSClient"]
